"""Kinds of models: random, recurrent, normalized, of mixed precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

from .helpers import WAYS
from .helpers import assert_same_weights
from .helpers import batch
from .helpers import classification
from .helpers import compiled
from .helpers import convolutional_net
from .helpers import crossentropy
from .helpers import dataset
from .helpers import mlp
from .helpers import normalized_mlp
from .helpers import regression


def _assert_learns(learner, data, loss="mse", epochs=15, rate=0.02):
    compiled(learner, keras.optimizers.Adam(rate), loss)
    history = learner.fit(dataset(data), epochs=epochs, verbose=0)
    losses = history.history["loss"]
    assert np.all(np.isfinite(losses))
    assert losses[-1] < 0.8 * losses[0]


def _dropout_net():
    return keras.Sequential(
        [
            keras.Input([2]),
            keras.layers.Dense(16, "tanh"),
            keras.layers.Dropout(0.3, seed=1),
            keras.layers.Dense(1),
        ]
    )


@pytest.mark.slow
def test_a_model_with_dropout_learns():
    learner = keras_meta.MAML(_dropout_net(), 0.1)
    _assert_learns(learner, regression(4))
    x, _ = regression()
    np.testing.assert_array_equal(learner(x), learner(x))


@pytest.mark.slow
def test_dropout_draws_anew_with_every_training_step():
    learner = compiled(
        keras_meta.MAML(_dropout_net(), 0.1), keras.optimizers.SGD(0.0)
    )
    losses = set()
    for _ in range(3):
        learner.reset_metrics()
        losses.add(float(learner.train_on_batch(*regression())))
    assert len(losses) == 3


def _lstm_net():
    return keras.Sequential(
        [
            keras.Input([4, 2]),
            keras.layers.LSTM(4),
            keras.layers.Dense(WAYS),
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "adapt", [pytest.param("all", marks=pytest.mark.slow), "head"]
)
def test_a_recurrent_model_learns(adapt):
    learner = keras_meta.MAML(_lstm_net(), 0.3, adapt=adapt)
    data = classification(4, shape=(4, 2))
    _assert_learns(learner, data, crossentropy(), rate=0.05)


def test_xla_is_chosen_where_it_compiles_fast():
    for model, expected in ((mlp(), True), (_lstm_net(), False)):
        learner = keras_meta.MAML(model, 0.1)
        learner.compile("sgd", "mse")
        assert learner.jit_compile is expected
        learner.compile("sgd", "mse", run_eagerly=True)
        assert not learner.jit_compile


def test_xla_is_off_for_a_layer_that_does_not_support_it():
    model = mlp()
    model.layers[0].supports_jit = False
    learner = keras_meta.MAML(model, 0.1)
    learner.compile("sgd", "mse")
    assert not learner.jit_compile


@pytest.mark.slow
@pytest.mark.parametrize("statistics", ["batch", "support", "running"])
def test_a_normalized_model_learns_with_statistics_of(statistics):
    learner = keras_meta.MAML(
        normalized_mlp(WAYS), 0.1, batch_statistics=statistics
    )
    _assert_learns(learner, classification(4), crossentropy(), 20, 0.05)
    norm = learner.model.get_layer("norm")
    moved = np.any(norm.moving_mean.numpy() != 0)
    assert moved == (statistics == "running")


@pytest.mark.slow
def test_a_convolutional_model_learns():
    learner = keras_meta.MAML(convolutional_net(pool="max"), 0.1)
    data = classification(4, shape=(6, 6, 1))
    _assert_learns(learner, data, crossentropy(), epochs=8)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [keras_meta.MAML, keras_meta.Reptile])
def test_moving_averages_move_in_training_alone(algorithm):
    learner = compiled(
        algorithm(normalized_mlp(), 0.1, 2, batch_statistics="running")
    )
    norm = learner.model.get_layer("norm")

    def averages():
        return [norm.moving_mean.numpy(), norm.moving_variance.numpy()]

    start = averages()
    x, y = regression()
    learner(x)
    learner.evaluate(x, y, verbose=0)
    learner.predict(x, verbose=0)
    learner.trajectory(x)
    learner.adapt(x["support_x"][0], x["support_y"][0])
    assert_same_weights(averages(), start)
    learner.train_on_batch(x, y)
    assert np.all(averages()[0] != start[0])
    assert np.all(averages()[1] != start[1])


@pytest.mark.slow
def test_moving_averages_follow_every_pass(float64):
    """Two passes: the support sets, then the query sets."""
    learner = compiled(
        keras_meta.MAML(
            normalized_mlp(), 0.25, adapt="head", batch_statistics="running"
        )
    )
    x, y = regression()
    body, norm = learner.model.layers[:2]
    expected = norm.moving_mean.numpy()
    for part in ("support_x", "query_x"):
        means = np.mean(body(x[part]).numpy(), axis=(0, 1))
        expected = 0.5 * expected + 0.5 * means
    learner.train_on_batch(x, y)
    np.testing.assert_allclose(norm.moving_mean, expected, rtol=1e-9)


def test_running_statistics_normalize_predictions(float64):
    model = normalized_mlp()
    norm = model.get_layer("norm")
    norm.moving_mean.assign([0.5, -0.5, 1.0, 0.0])
    learner = compiled(
        keras_meta.MAML(model, evaluation_steps=0, batch_statistics="running")
    )
    x, _ = regression()
    expected = [model(query) for query in x["query_x"]]
    np.testing.assert_allclose(learner(x), expected, rtol=1e-9)


@pytest.mark.slow_variants("batch-True")
@pytest.mark.parametrize(
    ("statistics", "depends"),
    [("batch", True), ("support", False), ("running", False)],
)
def test_predictions_depend_on_other_queries_only_with_batch_statistics(
    statistics, depends
):
    learner = compiled(
        keras_meta.MAML(normalized_mlp(), batch_statistics=statistics)
    )
    x, _ = regression()
    changed = x["query_x"].copy()
    changed[:, 1:] += 3
    first = learner(x)[:, 0]
    second = learner({**x, "query_x": changed})[:, 0]
    assert np.allclose(first, second, rtol=1e-4, atol=1e-5) != depends


@pytest.fixture
def mixed_bfloat16():
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.slow
def test_a_model_of_mixed_precision_learns(mixed_bfloat16):
    model = normalized_mlp(WAYS)
    learner = keras_meta.MAML(model, 0.1, 2)
    _assert_learns(learner, classification(4), crossentropy(), rate=0.05)
    assert {v.dtype for v in learner.trainable_variables} == {"float32"}
    assert model.compute_dtype == "bfloat16"


@pytest.mark.slow
def test_learned_rates_of_mixed_precision_stay_float32(mixed_bfloat16):
    learner = compiled(keras_meta.MetaSGD(mlp(), 0.1), jit_compile=False)
    before = [r.numpy() for r in learner.update_rule.rates]
    learner.fit(dataset(regression(2)), verbose=0)
    after = [r.numpy() for r in learner.update_rule.rates]
    assert {r.dtype for r in after} == {np.dtype("float32")}
    moves = [np.max(np.abs(a - b)) for a, b in zip(after, before, strict=True)]
    assert 0 < max(moves) < 1


def test_inner_steps_of_mixed_precision_are_not_rounded(mixed_bfloat16):
    """A step far below the precision of bfloat16 is taken all the same."""
    model = mlp()
    learner = compiled(keras_meta.MAML(model, 1e-4))
    x, _ = regression()
    adapted = learner.adapt(x["support_x"][0], x["support_y"][0])
    for v, w in zip(model.variables, adapted.variables, strict=True):
        assert w.dtype == "float32"
        assert np.all(v.numpy() != w.numpy())


@pytest.mark.slow
def test_targets_of_regression_keep_their_precision(mixed_bfloat16):
    seen = []

    def loss(y_true, y_pred):
        seen.append((y_true.dtype, y_pred.dtype))
        return tf.reduce_mean(tf.square(y_true - y_pred), axis=-1)

    learner = compiled(keras_meta.MAML(mlp(), 0.1, inner_loss=loss), loss=loss)
    learner.train_on_batch(*regression())
    assert set(seen) == {(tf.float32, tf.float32)}
    # 1.001 and 1 are the same number in bfloat16.
    x, y = regression()
    predictions = learner(x).numpy().astype("float64")
    logged, expected = [], []
    for target in (1.0, 1.001):
        targets = np.full(y.shape, target, "float32")
        logged.append(learner.evaluate(x, targets, 3, verbose=0))
        expected.append(np.mean((predictions - target) ** 2))
    np.testing.assert_allclose(np.diff(logged), np.diff(expected), rtol=1e-2)


def test_float16_is_refused_because_inner_gradients_underflow():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = mlp()
    finally:
        keras.config.set_dtype_policy("float32")
    with pytest.raises(ValueError, match="`model` computes in float16.*bfloat"):
        keras_meta.MAML(model)


@pytest.mark.slow
def test_a_model_of_two_inputs_and_nested_names_learns():
    left, right = keras.Input([2], name="left"), keras.Input([1], name="right")
    joint = keras.layers.Concatenate()([left, right])
    hidden = keras.layers.Dense(8, "tanh")(joint)
    model = keras.Model(
        {"left": left, "right": right}, keras.layers.Dense(1)(hidden)
    )
    x, y = regression(4, inputs=3)
    split = {
        key: {"left": x[key][..., :2], "right": x[key][..., 2:]}
        for key in ("support_x", "query_x")
    }
    learner = keras_meta.MAML(model, 0.1)
    _assert_learns(learner, ({**x, **split}, y))
    assert learner(batch({**x, **split}, 0)).shape == (3, 4, 1)


@pytest.mark.slow
def test_a_model_of_two_outputs_learns_with_an_inner_loss():
    inputs = keras.Input([2])
    hidden = keras.layers.Dense(8, "tanh")(inputs)
    outputs = {
        "value": keras.layers.Dense(1, name="value")(hidden),
        "sign": keras.layers.Dense(1, name="sign")(hidden),
    }
    model = keras.Model(inputs, outputs)

    def inner_loss(y_true, y_pred):
        error = keras.losses.mean_squared_error(y_true, y_pred["value"])
        return error + keras.losses.hinge(
            keras.ops.sign(y_true), y_pred["sign"]
        )

    x, y = regression(4)
    learner = keras_meta.MAML(model, 0.1, inner_loss=inner_loss)
    targets = {"value": y, "sign": np.sign(y)}
    _assert_learns(
        learner, (x, targets), {"value": "mse", "sign": "hinge"}, rate=0.05
    )
    predictions = learner.predict(batch(x, 0), batch_size=3, verbose=0)
    assert {k: p.shape for k, p in predictions.items()} == {
        "value": (3, 4, 1),
        "sign": (3, 4, 1),
    }
