"""`adapt` gives the network that the learner itself predicts with."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

from .helpers import adapt_by_hand
from .helpers import assert_same_weights
from .helpers import compiled
from .helpers import descent
from .helpers import maml
from .helpers import mlp
from .helpers import normalized_mlp
from .helpers import refuses
from .helpers import regression
from .helpers import weights


def _functional():
    inputs = keras.Input([2])
    x = keras.layers.Dense(4, "tanh")(inputs)
    x = keras.layers.Concatenate()([x, inputs])
    return keras.Model(inputs, keras.layers.Dense(1)(x))


@keras.saving.register_keras_serializable("keras_meta_tests")
class Registered(keras.Model):
    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.body = keras.layers.Dense(width, "tanh")
        self.head = keras.layers.Dense(1)

    def call(self, x):
        return self.head(self.body(x))

    def get_config(self):
        return {**super().get_config(), "width": self.width}


def _built(model):
    model(np.zeros([1, 2]))
    return model


def _local_class():
    class Local(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.body = keras.layers.Dense(4, "tanh")
            self.head = keras.layers.Dense(1)

        def call(self, x):
            return self.head(self.body(x))

    return _built(Local())


_MODELS = {
    "sequential": mlp,
    "functional": _functional,
    "registered": lambda: _built(Registered(4)),
    "local": _local_class,
}


def _learner(model, rate=0.1, steps=3, **kwargs):
    return compiled(keras_meta.MAML(model, rate, steps, **kwargs))


def _task(x, i):
    return x["support_x"][i], x["support_y"][i]


@pytest.mark.slow
@pytest.mark.parametrize("kind", _MODELS)
def test_adapted_models_predict_as_the_learner(kind, float64):
    learner = _learner(_MODELS[kind]())
    x, _ = regression()
    predictions = learner.predict(x, batch_size=3, verbose=0)
    start = learner.model(x["query_x"][0]).numpy()
    for i in range(3):
        adapted = learner.adapt(*_task(x, i))
        assert type(adapted).__name__ == type(learner.model).__name__
        np.testing.assert_allclose(
            adapted(x["query_x"][i]), predictions[i], rtol=1e-9
        )
    assert np.max(np.abs(predictions[0] - start)) > 1e-3


def test_adapted_weights_are_those_of_a_loop_by_hand(float64):
    model = mlp()
    learner = _learner(model, 0.25, 4)
    x, _ = regression()
    expected = adapt_by_hand(
        model,
        *_task(x, 1),
        lambda y, p: keras.ops.mean((y - p) ** 2),
        descent(0.25),
        4,
    )
    adapted = learner.adapt(*_task(x, 1))
    assert_same_weights(
        adapted.get_weights(), [v.numpy() for v in expected], rtol=1e-9
    )


@pytest.mark.slow
def test_batch_normalization_keeps_the_statistics_of_the_support_set():
    model = normalized_mlp()
    x, _ = regression()
    learner = _learner(model, batch_statistics="support")
    expected = learner(x)
    for statistics in ("support", "batch"):
        learner = _learner(model, batch_statistics=statistics)
        for i in range(3):
            adapted = learner.adapt(*_task(x, i))
            np.testing.assert_allclose(
                adapted(x["query_x"][i]), expected[i], rtol=2e-5, atol=1e-6
            )


@pytest.mark.slow
def test_running_statistics_stay_as_they_are():
    model = normalized_mlp()
    norm = model.get_layer("norm")
    norm.moving_mean.assign([0.1, 0.2, 0.3, 0.4])
    learner = _learner(model, batch_statistics="running")
    x, _ = regression()
    adapted = learner.adapt(*_task(x, 0))
    np.testing.assert_array_equal(
        adapted.get_layer("norm").moving_mean, norm.moving_mean
    )
    np.testing.assert_allclose(
        adapted(x["query_x"][0]), learner(x)[0], rtol=2e-5, atol=1e-6
    )


@pytest.mark.parametrize("kind", _MODELS)
def test_an_adapted_model_shares_nothing(kind):
    learner = _learner(_MODELS[kind]())
    x, _ = regression()
    before = weights(learner)
    adapted = learner.adapt(*_task(x, 0))
    assert_same_weights(learner, before)
    query = x["query_x"][0]
    predictions = adapted(query).numpy()
    for variable in learner.variables:
        variable.assign(keras.ops.zeros_like(variable))
    np.testing.assert_array_equal(adapted(query), predictions)
    for variable in adapted.variables:
        variable.assign(keras.ops.ones_like(variable))
    assert not np.any(learner.model(query))


def test_an_adapted_model_is_plain_keras(tmp_path):
    learner = _learner(mlp())
    x, y = regression()
    adapted = learner.adapt(*_task(x, 0))
    adapted.save(tmp_path / "adapted.keras")
    loaded = keras.saving.load_model(tmp_path / "adapted.keras")
    query = x["query_x"][0]
    np.testing.assert_array_equal(loaded(query), adapted(query))
    adapted.compile("sgd", "mse")
    losses = adapted.fit(query, y[0], epochs=3, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


def test_no_step_gives_the_initialization():
    learner = _learner(mlp(), evaluation_steps=0)
    x, _ = regression()
    expected = learner.model.get_weights()
    for steps in (None, 0):
        adapted = learner.adapt(*_task(x, 0), steps=steps)
        assert_same_weights(adapted.get_weights(), expected)


def test_the_steps_of_evaluation_are_the_default():
    learner = _learner(mlp(), steps=1, evaluation_steps=5)
    x, _ = regression()
    default, five, one = (
        learner.adapt(*_task(x, 0), steps=steps).get_weights()
        for steps in (None, 5, 1)
    )
    assert_same_weights(default, five)
    assert not np.array_equal(default[0], one[0])


def test_examples_of_weight_zero_do_not_count(float64):
    learner = _learner(mlp(), inner_loss=keras.losses.MeanSquaredError("sum"))
    x, _ = regression()
    support_x, support_y = _task(x, 0)
    weighted = learner.adapt(
        support_x, support_y, sample_weight=np.array([1.0, 1, 1, 0, 0])
    )
    short = learner.adapt(support_x[:3], support_y[:3])
    assert_same_weights(weighted.get_weights(), short.get_weights(), rtol=1e-9)


@pytest.mark.slow_variants("12")
@pytest.mark.parametrize("steps", [2, 12])
def test_a_trajectory_holds_the_predictions_after_every_step(steps, float64):
    model = mlp()
    x, _ = regression()
    trajectory = _learner(model, 0.05).trajectory(x, steps).numpy()
    assert trajectory.shape == (steps + 1, 3, 4, 1)
    for k in range(steps + 1):
        learner = _learner(model, 0.05, evaluation_steps=k)
        np.testing.assert_allclose(trajectory[k], learner(x), rtol=1e-9)
    start = [model(query) for query in x["query_x"]]
    np.testing.assert_allclose(trajectory[0], start, rtol=1e-9)


def test_a_trajectory_of_no_step_is_the_initialization():
    learner = _learner(mlp(), steps=2, evaluation_steps=0)
    x, _ = regression()
    trajectory = learner.trajectory(x)
    assert trajectory.shape == (1, 3, 4, 1)
    np.testing.assert_array_equal(trajectory[0], learner(x))


def test_a_model_that_cannot_be_copied_is_named():
    class NeedsWidth(keras.Model):
        def __init__(self, width, layer):
            super().__init__(name="stubborn")
            self.layer = layer

        def call(self, x):
            return self.layer(x)

    layer = keras.layers.Dense(1)
    learner = _learner(_built(NeedsWidth(object(), layer)))
    x, _ = regression()
    with pytest.raises(
        ValueError, match="'stubborn' .NeedsWidth. cannot be copied.*get_conf"
    ):
        learner.adapt(*_task(x, 0))


def test_weights_of_examples_may_have_a_last_axis():
    x, _ = regression()
    support = x["support_x"][0], x["support_y"][0]
    weight = np.arange(5.0, dtype="float32")
    learner = maml()
    adapted = [
        learner.adapt(*support, sample_weight=w).get_weights()
        for w in (weight, weight[:, None], weight[:, None, None])
    ]
    for other in adapted[1:]:
        assert_same_weights(adapted[0], other)


def test_weights_of_tasks_do_not_mix():
    """As many tasks as examples: a wrong broadcast would go unnoticed."""
    x, _ = regression(tasks=5, shots=5)
    weight = np.random.default_rng(0).uniform(size=[5, 5]).astype("float32")
    learner = maml()
    predictions = [
        learner({**x, "support_sample_weight": w})
        for w in (weight, weight[:, :, None])
    ]
    np.testing.assert_array_equal(*predictions)


def test_weights_of_more_axes_than_losses_are_refused():
    x, _ = regression()
    x["support_sample_weight"] = np.ones([3, 5, 2], "float32")
    with refuses(ValueError, r"`support_sample_weight` must have.*\(3, 5, 2\)"):
        maml()(x)


def test_labels_of_float64_and_a_loss_of_ones_own():
    def loss(y_true, y_pred):
        return tf.reduce_mean(tf.square(y_true - y_pred))

    x, _ = regression()
    support = x["support_x"][0], x["support_y"][0]
    learner = keras_meta.MAML(mlp(), 0.1, inner_loss=loss)
    adapted = [
        learner.adapt(support[0], support[1].astype(dtype)).get_weights()
        for dtype in ("float32", "float64")
    ]
    assert_same_weights(*adapted)


def test_a_copy_needs_no_compiled_loss():
    def loss(y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)

    model = mlp()
    model.compile("adam", loss)
    x, _ = regression()
    adapted = keras_meta.MAML(model, 0.1, inner_loss="mse").adapt(
        x["support_x"][0], x["support_y"][0]
    )
    assert not adapted.compiled
