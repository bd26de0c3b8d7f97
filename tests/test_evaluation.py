import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta.callbacks.task_evaluation import TaskEvaluation
from keras_meta.evaluation import Interval
from keras_meta.evaluation import adaptation_curve
from keras_meta.evaluation import evaluate_tasks
from keras_meta.learners.maml import MAML

_TASKS, _SUPPORT, _QUERIES, _WAYS = 12, 6, 8, 3


def _classification(batch, tasks=_TASKS):
    rng = np.random.default_rng(0)

    def inputs(n):
        return rng.normal(size=[tasks, n, 2]).astype("float32")

    def labels(n):
        return rng.integers(_WAYS, size=[tasks, n]).astype("int32")

    x = {
        "support_x": inputs(_SUPPORT),
        "support_y": labels(_SUPPORT),
        "query_x": inputs(_QUERIES),
    }
    y = labels(_QUERIES)
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch)


def _learner(metrics=("accuracy",), rate=0.1, **options):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(_WAYS)])
    learner = MAML(model, rate, steps=2)
    options.setdefault("jit_compile", False)
    learner.compile(
        "sgd",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=list(metrics),
        **options,
    )
    return learner


def _plain_results(learner, tasks, steps):
    """Accuracy and loss of each task, by a plain loop of numpy."""
    accuracies, losses = [], []
    kernel0, bias0 = (w.numpy() for w in learner.model.weights)
    for x, y in _classification(1).unbatch().take(tasks):
        kernel, bias = kernel0, bias0
        one_hot = np.eye(_WAYS)[x["support_y"].numpy()]
        inputs = x["support_x"].numpy()
        for _ in range(steps):
            error = (_softmax(inputs @ kernel + bias) - one_hot) / _SUPPORT
            kernel = kernel - 0.1 * inputs.T @ error
            bias = bias - 0.1 * error.sum(axis=0)
        p = _softmax(x["query_x"].numpy() @ kernel + bias)
        accuracies.append(np.mean(p.argmax(-1) == y.numpy()))
        losses.append(-np.log(p[np.arange(_QUERIES), y.numpy()]).mean())
    return {"accuracy": np.array(accuracies), "loss": np.array(losses)}


def _softmax(logits):
    e = np.exp(logits - logits.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.slow_variants("False-12", "True-5", "True-12")
@pytest.mark.parametrize("batch", [_TASKS, 5])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_evaluates_each_of_exactly_the_requested_tasks(batch, jit_compile):
    learner = _learner(jit_compile=jit_compile)
    expected = _plain_results(learner, tasks=7, steps=2)
    result = evaluate_tasks(learner, _classification(batch), tasks=7)
    assert set(result) == {"loss", "accuracy"}
    for name, values in expected.items():
        np.testing.assert_allclose(result[name].mean, values.mean(), rtol=1e-5)
        np.testing.assert_allclose(
            result[name].half_width,
            1.96 * values.std(ddof=1) / np.sqrt(7),
            rtol=1e-4,
        )
        assert result[name].tasks == 7


@pytest.mark.slow_variants("1", "5")
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_steps_override_the_learners_default(steps):
    learner = _learner()
    expected = _plain_results(learner, _TASKS, steps)
    result = evaluate_tasks(learner, _classification(5), _TASKS, steps=steps)
    np.testing.assert_allclose(
        result["loss"].mean, expected["loss"].mean(), rtol=1e-5
    )
    assert learner.evaluation_steps is None


def test_curve_starts_at_the_initialization():
    learner = _learner()
    curve = adaptation_curve(learner, _classification(5), tasks=9, steps=3)
    assert curve["accuracy"].mean.shape == (4,)
    for steps in range(4):
        expected = _plain_results(learner, 9, steps)["loss"]
        at = curve["loss"][steps]
        np.testing.assert_allclose(at.mean, expected.mean(), rtol=1e-5)
        np.testing.assert_allclose(
            at.half_width, 1.96 * expected.std(ddof=1) / 3, rtol=1e-4
        )


@pytest.mark.slow
def test_mean_agrees_with_evaluate():
    learner = _learner()
    result = evaluate_tasks(learner, _classification(4), _TASKS)
    expected = learner.evaluate(_classification(4), verbose=0, return_dict=True)
    for name, value in expected.items():
        np.testing.assert_allclose(result[name].mean, value, rtol=1e-5)


def _top_two(y_true, y_pred):
    """A function of its own, so it is called for each task."""
    assert len(y_pred.shape) == 2
    return keras.metrics.sparse_top_k_categorical_accuracy(y_true, y_pred, k=2)


@pytest.mark.slow
def test_any_metric_is_computed_per_task():
    iou = keras.metrics.MeanIoU(_WAYS, sparse_y_pred=False, name="iou")
    own = keras.metrics.MeanMetricWrapper(_top_two, name="own")
    known = keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="known")
    learner = _learner(metrics=[iou, own, known])
    result = evaluate_tasks(learner, _classification(5), _TASKS)
    assert result["own"] == result["known"]
    predictions = learner.predict(_classification(5), verbose=0)
    labels = np.concatenate([y for _, y in _classification(5)])
    expected = []
    for y, p in zip(labels, predictions, strict=True):
        single = keras.metrics.MeanIoU(_WAYS, sparse_y_pred=False)
        single.update_state(y, p)
        expected.append(float(single.result()))
    np.testing.assert_allclose(result["iou"].mean, np.mean(expected), rtol=1e-6)


@pytest.mark.slow
def test_metrics_keep_their_state():
    learner = _learner(metrics=[keras.metrics.MeanIoU(_WAYS, sparse_y_pred=0)])
    learner.evaluate(_classification(5), verbose=0)
    metric = learner._compile_metrics.metrics[0]
    before = metric.variables[0].numpy()
    assert before.any()
    evaluate_tasks(learner, _classification(5), _TASKS)
    np.testing.assert_array_equal(metric.variables[0].numpy(), before)


@pytest.mark.slow
def test_diverging_tasks_raise_in_evaluation_but_not_in_curves():
    learner = _learner(rate=1e38)
    with pytest.raises(FloatingPointError, match="learning rate"):
        evaluate_tasks(learner, _classification(5), _TASKS, steps=5)
    curve = adaptation_curve(learner, _classification(5), _TASKS, steps=5)
    assert np.isfinite(curve["loss"].mean[0])
    assert not np.isfinite(curve["loss"].mean[-1])


@pytest.mark.slow
def test_short_data_is_refused():
    with pytest.raises(ValueError, match="after 12 tasks; tasks=20"):
        evaluate_tasks(_learner(), _classification(5), tasks=20)


@pytest.mark.parametrize("evaluate", [evaluate_tasks, adaptation_curve])
@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        (None, "`episodes` must be a data set.*Received: episodes=None"),
        (tf.constant(1.0), "`episodes` must be a data set"),
        (["a", "b"], r"need labels .* `\(x, query_y\)`"),
    ],
)
def test_refuses_episodes_that_are_not_a_data_set(evaluate, episodes, message):
    with pytest.raises((TypeError, ValueError), match=message):
        evaluate(_learner(), episodes, tasks=2)


def test_labels_are_needed_to_evaluate():
    inputs = _classification(3).map(lambda x, y: (x,))
    with pytest.raises(ValueError, match=r"need labels .*`\(x, query_y\)`"):
        evaluate_tasks(_learner(), inputs, tasks=2)


def test_refuses_learners_that_are_not_models():
    with pytest.raises(TypeError, match="`learner` must be.*learner='maml'"):
        evaluate_tasks("maml", _classification(3), tasks=2)


def test_one_task_has_no_interval():
    with pytest.raises(ValueError, match="`tasks` must be .* at least 2"):
        evaluate_tasks(_learner(), _classification(5), tasks=1)


def test_uncompiled_learners_are_refused():
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(_WAYS)])
    with pytest.raises(ValueError, match="must be compiled"):
        evaluate_tasks(MAML(model), _classification(5), _TASKS)


def test_sample_weights_are_refused():
    weighted = _classification(5).map(lambda x, y: (x, y, tf.ones_like(y)))
    with pytest.raises(ValueError, match="third element"):
        evaluate_tasks(_learner(), weighted, _TASKS)


def test_steps_need_an_inner_loop():
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="`steps` needs a learner"):
        evaluate_tasks(model, _classification(5), _TASKS, steps=3)


@pytest.mark.slow
def test_another_evaluation_sees_new_weights():
    learner = _learner()
    evaluate_tasks(learner, _classification(5), _TASKS)
    learner.model.weights[0].assign_add(tf.ones([2, _WAYS]) * [1.0, 0.0, -1.0])
    result = evaluate_tasks(learner, _classification(5), _TASKS)
    expected = _plain_results(learner, _TASKS, 2)["loss"]
    np.testing.assert_allclose(result["loss"].mean, expected.mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (Interval(0.987, 0.004, 600).percent, "98.70 ± 0.40"),
        (Interval(0.987, 0.004, 600), "0.9870 ± 0.0040"),
        (Interval(1.128, 0.18, 600), "1.13 ± 0.18"),
        (Interval(150.0, 12.0, 600), "150 ± 12"),
        (Interval(1.0, 0.0, 600), "1.00 ± 0.00"),
    ],
)
def test_intervals_show_two_digits_of_their_width(interval, text):
    assert str(interval) == text


def test_format():
    assert f"{Interval(0.5, 0.25, 9):.1f}" == "0.5 ± 0.2"


@pytest.mark.slow
def test_callback_adds_entries_to_the_logs_for_other_callbacks(tmp_path):
    learner = _learner()
    path = tmp_path / "best.weights.h5"
    history = learner.fit(
        _classification(4),
        epochs=3,
        verbose=0,
        callbacks=[
            TaskEvaluation(_classification(5), tasks=_TASKS),
            keras.callbacks.ModelCheckpoint(
                path,
                monitor="val_accuracy",
                mode="max",
                save_best_only=True,
                save_weights_only=True,
            ),
        ],
    ).history
    expected = evaluate_tasks(learner, _classification(5), _TASKS)
    assert history["val_accuracy"][-1] == expected["accuracy"].mean
    assert (
        history["val_accuracy_interval"][-1] == expected["accuracy"].half_width
    )
    assert history["val_loss"][-1] == expected["loss"].mean
    assert len(history["val_loss"]) == 3
    assert path.exists()


@pytest.mark.slow
def test_callback_skips_epochs():
    seen = []
    _learner().fit(
        _classification(4),
        epochs=4,
        verbose=0,
        callbacks=[
            TaskEvaluation(
                _classification(5), tasks=_TASKS, prefix="meta_", every=2
            ),
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: seen.append(
                    "meta_accuracy" in logs
                )
            ),
        ],
    )
    assert seen == [False, True, False, True]


def test_callback_checks_every():
    with pytest.raises(ValueError, match="`every` must be a positive integer"):
        TaskEvaluation(_classification(5), every=0)
