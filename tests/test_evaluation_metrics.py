"""Metrics of every kind, in `fit` and task by task."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

_TASKS, _N, _WAYS = 4, 9, 3
metrics = keras.metrics


class _Counts(metrics.Metric):
    """A result of two numbers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.n = self.add_weight(name="n", shape=(), initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.n.assign_add(tf.cast(tf.shape(y_pred)[0], "float32"))

    def result(self):
        return {"count": self.n, "twice": 2 * self.n}


class _Confusion(metrics.Metric):
    """A matrix."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.counts = self.add_weight(
            name="counts", shape=(_WAYS, _WAYS), initializer="zeros"
        )

    def update_state(self, y_true, y_pred, sample_weight=None):
        found = tf.one_hot(tf.argmax(y_pred, -1), _WAYS)
        self.counts.assign_add(tf.transpose(y_true) @ found)

    def result(self):
        return self.counts


def _own_function(y_true, y_pred):
    assert len(y_true.shape) == len(y_pred.shape) == 2
    return tf.reduce_max(tf.abs(y_true - y_pred), axis=-1)


_METRICS = {
    "r2": lambda: metrics.R2Score(name="r2"),
    "r2 of each": lambda: metrics.R2Score(None, name="r2_of_each"),
    "f1 of each": lambda: metrics.F1Score(average=None, name="f1"),
    "f1": lambda: metrics.F1Score(average="macro", name="f1_macro"),
    "auc": lambda: metrics.AUC(multi_label=True, name="auc"),
    "iou": lambda: metrics.MeanIoU(
        _WAYS, sparse_y_true=False, sparse_y_pred=False, name="iou"
    ),
    "recall": lambda: metrics.Recall(class_id=1, name="recall"),
    "sensitivity": lambda: metrics.SensitivityAtSpecificity(
        0.5, name="sensitivity"
    ),
    "top": lambda: metrics.TopKCategoricalAccuracy(2, name="top"),
    "entropy": lambda: metrics.CategoricalCrossentropy(name="entropy"),
    "own": lambda: metrics.MeanMetricWrapper(_own_function, name="own"),
    "counts": lambda: _Counts(name="counts"),
    "confusion": lambda: _Confusion(name="confusion"),
}


# Those that others nearly cover are slow.
_COVERED = ("f1", "r2 of each", "sensitivity", "top", "entropy")
_GROUPS = {
    "first": [name for name in _METRICS if name not in _COVERED],
    "covered": list(_COVERED),
}
each_group = pytest.mark.parametrize(
    "group", ["first", pytest.param("covered", marks=pytest.mark.slow)]
)
each_metric = pytest.mark.parametrize(
    ("group", "name"),
    [
        pytest.param(
            group,
            name,
            marks=[pytest.mark.slow] * (group == "covered"),
            id=name,
        )
        for group, names in _GROUPS.items()
        for name in names
    ],
)


def _data():
    rng = np.random.default_rng(0)

    def labels():
        classes = np.stack([rng.permutation(_N) % _WAYS for _ in range(_TASKS)])
        return np.eye(_WAYS, dtype="float32")[classes]

    def inputs():
        return rng.normal(size=[_TASKS, _N, 2]).astype("float32")

    x = {"support_x": inputs(), "support_y": labels(), "query_x": inputs()}
    return x, labels()


def _batches(size=3):
    return tf.data.Dataset.from_tensor_slices(_data()).batch(size)


def _learner(compiled_metrics, **options):
    keras.utils.set_random_seed(0)
    layers = [keras.Input([2]), keras.layers.Dense(_WAYS, "softmax")]
    learner = keras_meta.MAML(keras.Sequential(layers), 0.5)
    options.setdefault("jit_compile", False)
    learner.compile(
        keras.optimizers.SGD(0.0),
        "categorical_crossentropy",
        metrics=compiled_metrics,
        **options,
    )
    return learner


def _by_keras(make, y_true, y_pred):
    metric = make()
    metric.update_state(y_true, y_pred)
    result = metric.result()
    if not isinstance(result, dict):
        result = {metric.name: result}
    return {k: keras.ops.convert_to_numpy(v) for k, v in result.items()}


@pytest.fixture(scope="module")
def measured():
    """Predictions, and what is measured with a group of metrics at once.

    A function of the group and not a fixture with parameters: pytest would
    make that again for each test.
    """

    @functools.cache
    def of_group(group):
        learner = _learner([_METRICS[name]() for name in _GROUPS[group]])
        predictions = learner.predict(_batches(), verbose=0)
        return (
            predictions,
            keras_meta.evaluate_tasks(learner, _batches(), _TASKS),
            learner.evaluate(_batches(), verbose=0, return_dict=True),
            keras_meta.adaptation_curve(learner, _batches(), _TASKS, steps=1),
        )

    return of_group


@each_metric
def test_each_task_is_measured_as_keras_does(group, name, measured):
    predictions, result, _, curve = measured(group)
    tasks = [
        _by_keras(_METRICS[name], y, p)
        for y, p in zip(_data()[1], predictions, strict=True)
    ]
    for key in tasks[0]:
        values = np.stack([task[key] for task in tasks]).astype("float64")
        width = 1.96 * values.std(axis=0, ddof=1) / np.sqrt(_TASKS)
        for interval in (result[key], curve[key][1]):
            np.testing.assert_allclose(
                interval.mean, values.mean(axis=0), atol=1e-6
            )
            np.testing.assert_allclose(interval.half_width, width, atol=1e-6)


@each_metric
def test_all_tasks_together_are_measured_as_keras_does(group, name, measured):
    predictions, _, logs, _ = measured(group)
    expected = _by_keras(
        _METRICS[name],
        _data()[1].reshape(-1, _WAYS),
        predictions.reshape(-1, _WAYS),
    )
    for key, value in expected.items():
        np.testing.assert_allclose(logs[key], value, atol=1e-6)


@each_group
def test_names_are_those_of_evaluate(group, measured):
    _, result, logs, curve = measured(group)
    assert set(result) == set(logs) == set(curve)


@pytest.mark.slow
def test_metrics_of_one_name_are_told_apart_as_in_keras():
    learner = _learner([metrics.F1Score(), metrics.F1Score(average="macro")])
    result = keras_meta.evaluate_tasks(learner, _batches(), _TASKS)
    assert set(result) == {"loss", "f1_score", "f1_score_1"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_metrics_that_make_their_variables_late(jit_compile):
    learner = _learner(
        [metrics.F1Score(average=None), metrics.R2Score()],
        jit_compile=jit_compile,
    )
    history = learner.fit(_batches(), epochs=2, verbose=0, shuffle=False)
    logs = learner.evaluate(_batches(), verbose=0, return_dict=True)
    for name in ("f1_score", "r2_score"):
        # The optimizer's rate is 0.
        for epoch in history.history[name]:
            np.testing.assert_allclose(epoch, logs[name], atol=1e-6)


def test_weighted_metrics_get_the_weights_of_the_examples():
    learner = _learner([])
    learner.compile(
        "sgd",
        "categorical_crossentropy",
        weighted_metrics=[metrics.F1Score(average=None)],
        run_eagerly=True,
    )
    x, y = _data()
    weights = np.random.default_rng(1).random([_TASKS, _N]).astype("float32")
    # One number stands for all queries of a task.
    for weight in (weights, weights[:, :1]):
        data = tf.data.Dataset.from_tensors((x, y, weight))
        logs = learner.evaluate(data, verbose=0, return_dict=True)
        metric = metrics.F1Score(average=None)
        metric.update_state(
            y.reshape(-1, _WAYS),
            learner(x).numpy().reshape(-1, _WAYS),
            np.broadcast_to(weight, [_TASKS, _N]).reshape(-1),
        )
        np.testing.assert_allclose(logs["f1_score"], metric.result(), atol=1e-6)


def test_an_interval_of_several_values_shows_each():
    interval = keras_meta.Interval(
        np.array([0.987, 0.5]), np.array([0.004, 0.25]), 600
    )
    assert str(interval.percent) == "[98.70 ± 0.40, 50 ± 25]"
    assert f"{interval:.1f}" == "[1.0 ± 0.0, 0.5 ± 0.2]"
    assert interval[1] == keras_meta.Interval(0.5, 0.25, 600)
    assert [*interval] == [interval[0], interval[1]]
    assert len(interval) == 2
    assert interval == keras_meta.Interval(
        interval.mean.copy(), interval.half_width.copy(), 600
    )
    assert interval != interval.percent
    assert len({interval, interval.percent}) == 2
    with pytest.raises(TypeError, match="single value cannot be indexed"):
        interval[1][0]


@pytest.mark.slow
def test_a_callback_logs_an_array_for_a_metric_of_several_values():
    learner = _learner([metrics.F1Score(average=None)], run_eagerly=True)
    callback = keras_meta.callbacks.TaskEvaluation(_batches(), tasks=_TASKS)
    history = learner.fit(
        _batches(), callbacks=[callback], verbose=0, shuffle=False
    ).history
    expected = keras_meta.evaluate_tasks(learner, _batches(), _TASKS)
    np.testing.assert_array_equal(
        history["val_f1_score"][0], expected["f1_score"].mean
    )


# What is compiled is kept.


class _Counting(keras_meta.MAML):
    """Counts how often its inner loop is traced."""

    traces = 0

    def _adapt(self, *args, **kwargs):
        type(self).traces += 1
        return super()._adapt(*args, **kwargs)


@pytest.fixture
def counting():
    _Counting.traces = 0
    learner = _learner(["accuracy"])
    learner.__class__ = _Counting
    return learner


@pytest.mark.slow
@pytest.mark.parametrize(
    "measure",
    [
        lambda learner: keras_meta.evaluate_tasks(learner, _batches(2), 4),
        lambda learner: keras_meta.adaptation_curve(
            learner, _batches(2), 4, steps=2
        ),
    ],
)
def test_repeated_calls_do_not_trace_again(measure, counting):
    measure(counting)
    first = _Counting.traces
    assert first > 0
    for _ in range(3):
        measure(counting)
    assert _Counting.traces == first
    counting.compile("sgd", "categorical_crossentropy", jit_compile=False)
    measure(counting)
    assert _Counting.traces == 2 * first


@pytest.mark.parametrize("loss", ["MeanSquaredError", "mse"])
def test_a_loss_given_by_its_name_is_compiled_once(loss, counting):
    """Keras makes a new object of the name of a class each time."""
    counting.compile("sgd", loss, jit_compile=False)
    keras_meta.evaluate_tasks(counting, _batches(2), 2)
    first = _Counting.traces
    keras_meta.evaluate_tasks(counting, _batches(2), 4)
    assert _Counting.traces == first


@pytest.mark.slow
def test_what_changes_is_compiled_anew(counting):
    def measure(**options):
        before = _Counting.traces
        result = keras_meta.evaluate_tasks(counting, _batches(2), 4, **options)
        return result["loss"].mean, _Counting.traces > before

    none, is_new = measure(steps=0)
    assert is_new
    one, is_new = measure()
    assert is_new and one != none
    assert measure(steps=0) == (none, False)
    counting.evaluation_steps = 0
    assert measure()[0] == none
    counting.evaluation_steps = None
    counting.inner_loss = "mse"
    assert measure()[0] not in (none, one)
