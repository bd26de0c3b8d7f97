"""What Keras users do with a model, done with a learner."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.execution.endless import refuses_endless

from .helpers import assert_same_weights
from .helpers import batch
from .helpers import classification
from .helpers import compiled
from .helpers import crossentropy
from .helpers import dataset
from .helpers import have_moved
from .helpers import mlp
from .helpers import regression
from .helpers import weights


def _maml(**kwargs):
    keras.utils.set_random_seed(0)
    return keras_meta.MAML(mlp(), 0.1, **kwargs)


def _fit(learner, batches=4, **kwargs):
    kwargs = {"verbose": 0, **kwargs}
    return learner.fit(dataset(regression(batches)), **kwargs).history


@pytest.mark.slow
def test_every_compiled_metric_is_logged():
    learner = compiled(
        keras_meta.MAML(mlp(3), 0.1),
        loss=crossentropy(),
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2)],
        weighted_metrics=["sparse_categorical_crossentropy"],
    )
    data = classification()
    logs = learner.evaluate(*data, batch_size=2, verbose=0, return_dict=True)
    predictions = learner(data[0]).numpy()
    accuracy = np.mean(np.argmax(predictions, axis=-1) == data[1])
    np.testing.assert_allclose(logs["accuracy"], accuracy, rtol=1e-6)
    assert set(logs) == {
        "loss",
        "accuracy",
        "sparse_top_k_categorical_accuracy",
        "sparse_categorical_crossentropy",
    }
    fitted = learner.fit(*data, batch_size=2, verbose=0).history
    assert set(fitted) == set(logs)


@pytest.mark.filterwarnings("error:.*shuffle=True")
def test_fit_on_a_data_set_does_not_warn_of_its_order():
    learner = compiled(_maml(), run_eagerly=True)
    data = dataset(regression(1))
    learner.fit(data, verbose=0)
    learner.fit(x=data, verbose=0)
    # Whoever asks for what cannot be is still told.
    with pytest.raises(UserWarning, match="shuffle=True"):
        learner.fit(data, shuffle=True, verbose=0)


def test_only_the_order_of_data_sets_is_settled():
    @refuses_endless
    def fit(self, x=None, y=None, validation_data=None, shuffle=True):
        return shuffle

    data = tf.data.Dataset.range(2)
    assert fit(None, np.ones(2), np.ones(2))
    assert not fit(None, data)
    assert not fit(None, x=data)
    assert fit(None, data, None, None, True)
    assert fit(None, data, shuffle=True)


@pytest.mark.slow
def test_logged_losses_are_means_over_tasks():
    learner = compiled(_maml())
    x, y = regression(tasks=5)
    predictions = learner(x).numpy()
    logged = learner.evaluate(x, y, batch_size=2, verbose=0)
    np.testing.assert_allclose(
        logged, np.mean((predictions - y) ** 2), rtol=1e-5
    )
    compiled(learner, keras.optimizers.SGD(0.0))
    logged = learner.fit(x, y, batch_size=2, verbose=0).history["loss"]
    np.testing.assert_allclose(
        logged, [np.mean((predictions - y) ** 2)], rtol=1e-5
    )


@pytest.mark.slow
def test_weights_of_query_examples_scale_their_losses():
    learner = compiled(_maml(), weighted_metrics=["mae"])
    x, y = regression()
    weight = np.random.default_rng(0).uniform(size=y.shape[:2])
    errors = np.square(learner(x).numpy() - y)[..., 0]
    logs = learner.evaluate(
        x, y, 3, verbose=0, sample_weight=weight, return_dict=True
    )
    np.testing.assert_allclose(logs["loss"], np.mean(weight * errors), 1e-5)
    np.testing.assert_allclose(
        logs["mae"],
        np.sum(weight * errors**0.5) / np.sum(weight),
        rtol=1e-5,
    )


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [keras_meta.MAML, keras_meta.Reptile])
def test_queries_of_weight_zero_do_not_count_in_fit(algorithm):
    x, y = regression()
    weight = np.ones(y.shape[:2], "float32")
    weight[:, -1] = 0
    wrong = y.copy()
    wrong[:, -1] = 100
    results = []
    for labels in (y, wrong):
        keras.utils.set_random_seed(0)
        learner = compiled(algorithm(mlp(), 0.1, 1))
        data = tf.data.Dataset.from_tensors((x, labels, weight))
        history = learner.fit(data, epochs=2, verbose=0).history
        results.append((history, weights(learner)))
    assert results[0][0] == results[1][0]
    assert_same_weights(results[0][1], results[1][1])


@pytest.mark.slow
def test_support_examples_of_weight_zero_do_not_count_in_fit():
    x, y = regression()
    weight = np.ones(x["support_y"].shape[:2], "float32")
    weight[:, 0] = 0
    wrong = x["support_y"].copy()
    wrong[:, 0] = 100
    results = []
    for labels in (x["support_y"], wrong):
        learner = compiled(_maml())
        inputs = {**x, "support_y": labels, "support_sample_weight": weight}
        learner.fit(inputs, y, batch_size=3, epochs=2, verbose=0)
        results.append(weights(learner))
    assert_same_weights(*results)
    learner = compiled(_maml())
    learner.fit(x, y, batch_size=3, epochs=2, verbose=0)
    assert have_moved(weights(learner), results[0])


@pytest.mark.slow
def test_batch_size_counts_tasks_of_arrays():
    x, y = regression(12)
    flat = keras.tree.map_structure(
        lambda a: a.reshape([-1, *a.shape[2:]]), (x, y)
    )
    learners = compiled(_maml()), compiled(_maml())
    learners[0].fit(dataset((x, y)), verbose=0)
    learners[1].fit(*flat, batch_size=3, shuffle=False, verbose=0)
    assert_same_weights(*learners)
    assert learners[0].optimizer.iterations == 12


@pytest.mark.slow
def test_the_last_batch_may_have_fewer_tasks():
    x, y = regression(tasks=5)
    learner = compiled(_maml())
    before = weights(learner)
    learner.fit(x, y, batch_size=3, verbose=0)
    assert learner.optimizer.iterations == 2
    assert have_moved(before, weights(learner))
    predictions = learner.predict(x, batch_size=3, verbose=0)
    np.testing.assert_allclose(predictions, learner(x), rtol=2e-5, atol=1e-6)


@pytest.mark.slow
def test_shots_and_queries_may_change_from_batch_to_batch():
    sizes = [(5, 4), (2, 3), (1, 1)]
    data = [regression(shots=s, queries=q) for s, q in sizes]
    learner = compiled(_maml())
    before = weights(learner)
    learner.fit((pair for pair in data), steps_per_epoch=3, verbose=0)
    assert learner.optimizer.iterations == 3
    assert have_moved(before, weights(learner))
    for (x, _), (_, queries) in zip(data, sizes, strict=True):
        assert learner.predict(x, verbose=0).shape == (3, queries, 1)


@pytest.mark.slow
def test_predictions_of_all_batches_are_joined():
    learner = compiled(keras_meta.MAML(mlp(3), 0.1), loss=crossentropy())
    data = classification(4)
    predictions = learner.predict(dataset(data), verbose=0)
    assert predictions.shape == (8, 6, 3)
    expected = [learner(batch(data[0], i)) for i in range(4)]
    np.testing.assert_allclose(
        predictions, np.concatenate(expected), rtol=2e-5, atol=1e-6
    )


def test_running_eagerly_takes_the_same_steps():
    learners = (
        compiled(_maml(steps=2)),
        compiled(_maml(steps=2), run_eagerly=True),
    )
    histories = [_fit(learner) for learner in learners]
    np.testing.assert_allclose(*[h["loss"] for h in histories], rtol=1e-5)
    assert_same_weights(*learners, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_early_stopping_restores_the_best_weights():
    learner = compiled(_maml(), keras.optimizers.SGD(-0.1))
    stop = keras.callbacks.EarlyStopping(
        "loss", patience=2, restore_best_weights=True
    )
    history = _fit(learner, epochs=10, callbacks=[stop])
    assert len(history["loss"]) == 3
    once = compiled(_maml(), keras.optimizers.SGD(-0.1))
    _fit(once, epochs=1)
    assert_same_weights(learner, once)


@pytest.mark.slow
def test_model_checkpoint_keeps_the_best_learner(tmp_path):
    path = tmp_path / "best.keras"
    # From the second epoch on the learner becomes worse.
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [4], [0.05, -0.2]
    )
    learner = compiled(_maml(), keras.optimizers.SGD(schedule))
    checkpoint = keras.callbacks.ModelCheckpoint(
        path, monitor="val_loss", save_best_only=True
    )
    history = _fit(
        learner,
        epochs=4,
        callbacks=[checkpoint],
        validation_data=dataset(regression(2, seed=1)),
    )
    assert np.argmin(history["val_loss"]) == 0
    best = keras.saving.load_model(path)
    loss = best.evaluate(dataset(regression(2, seed=1)), verbose=0)
    np.testing.assert_allclose(loss, history["val_loss"][0], rtol=1e-6)
    last = learner.evaluate(dataset(regression(2, seed=1)), verbose=0)
    assert last > loss


@pytest.mark.slow
def test_csv_logger_writes_every_epoch(tmp_path):
    path = tmp_path / "log.csv"
    learner = compiled(_maml(), metrics=["mae"])
    logger = keras.callbacks.CSVLogger(path)
    history = _fit(learner, epochs=3, callbacks=[logger])
    with open(path) as file:
        rows = list(csv.DictReader(file))
    losses = [float(row["loss"]) for row in rows]
    np.testing.assert_allclose(losses, history["loss"], rtol=1e-6)
    assert set(rows[0]) >= {"epoch", "loss", "mae"}


class _Interruption(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 2:
            raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras_meta.MetaSGD(mlp(), steps=2, seed=0),
        lambda: keras_meta.Reptile(mlp(), steps=2),
    ],
    ids=["meta_sgd", "reptile"],
)
def test_an_interrupted_fit_resumes_exactly(make, tmp_path):
    def fit(*callbacks):
        keras.utils.set_random_seed(0)
        learner = compiled(make(), keras.optimizers.Adam(0.01))
        history = _fit(learner, epochs=4, callbacks=list(callbacks))
        return learner, history["loss"]

    expected, losses = fit()
    backup = keras.callbacks.BackupAndRestore(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(backup, _Interruption())
    resumed, rest = fit(keras.callbacks.BackupAndRestore(tmp_path))
    assert rest == losses[2:]
    assert_same_weights(resumed, expected)


@pytest.mark.slow
def test_tensorboard_receives_the_logs(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    learner = compiled(_maml())
    board = keras.callbacks.TensorBoard(
        tmp_path, histogram_freq=1, update_freq=1
    )
    _fit(learner, callbacks=[board])
    written = [p for p in tmp_path.rglob("*tfevents*") if p.stat().st_size]
    assert written
    tags = {
        value.tag
        for event in tf.compat.v1.train.summary_iterator(str(written[0]))
        for value in event.summary.value
    }
    assert "epoch_loss" in tags


@pytest.mark.slow
def test_gradients_are_accumulated_over_steps():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    x, y = regression(2)
    accumulated = compiled(_maml(), optimizer)
    accumulated.fit(dataset((x, y)), verbose=0)
    joint = compiled(_maml())
    joint.train_on_batch(
        *keras.tree.map_structure(
            lambda a: a.reshape([-1, *a.shape[2:]]), (x, y)
        )
    )
    assert_same_weights(accumulated, joint, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_moving_averages_of_weights_are_kept():
    optimizer = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.75)
    learner, plain = compiled(_maml(), optimizer), compiled(_maml())
    values = []
    for seed in (0, 1):
        data = dataset(regression(1, seed=seed))
        learner.fit(data, verbose=0)
        plain.fit(data, verbose=0)
        values.append(weights(plain))
    # Keras starts the averages with the first values that it sees, and puts
    # them in place at the end of `fit`.
    expected = [0.75 * a + 0.25 * b for a, b in zip(*values, strict=True)]
    assert have_moved(*values)
    assert_same_weights(learner, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.slow
def test_clipnorm_bounds_each_meta_gradient():
    learner = compiled(_maml(), keras.optimizers.SGD(1.0, clipnorm=1e-3))
    before = [v.numpy() for v in learner.trainable_variables]
    _fit(learner, 1)
    for old, v in zip(before, learner.trainable_variables, strict=True):
        norm = np.linalg.norm(v.numpy() - old)
        np.testing.assert_allclose(norm, 1e-3, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 12])
def test_more_steps_of_evaluation_than_of_training(steps):
    learner = compiled(_maml(steps=1, evaluation_steps=steps))
    data = regression()
    predictions = learner.trajectory(data[0]).numpy()
    assert predictions.shape[0] == steps + 1
    expected = np.mean((predictions[-1] - data[1]) ** 2)
    np.testing.assert_allclose(
        learner.evaluate(*data, batch_size=3, verbose=0), expected, rtol=1e-5
    )
    trained = compiled(_maml(steps=1))
    for model in (learner, trained):
        model.train_on_batch(*data)
    assert_same_weights(learner, trained)


@pytest.mark.slow
def test_learning_rate_schedules_advance():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay(
        [2], [0.1, 0.0]
    )
    learner = compiled(_maml(), keras.optimizers.SGD(schedule))
    _fit(learner, 3)
    after = weights(learner)
    _fit(learner, 2)
    assert_same_weights(learner, after)


@pytest.mark.slow
def test_validation_does_not_train():
    learner = compiled(_maml())
    before = weights(learner)
    learner.evaluate(dataset(regression(2)), verbose=0)
    learner.predict(dataset(regression(2)), verbose=0)
    assert_same_weights(learner, before)


def test_the_summary_lists_the_learned_rates(capsys):
    learner = keras_meta.MetaSGD(mlp())
    learner.summary()
    assert "34 (136.00 B)" in capsys.readouterr().out
    assert learner.count_params() == 34
