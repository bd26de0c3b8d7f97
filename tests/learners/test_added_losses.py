"""Losses that layers add count in the outer loss, on the query sets."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

from .helpers import batch
from .helpers import compiled
from .helpers import dataset
from .helpers import regression

pytestmark = pytest.mark.usefixtures("float64")

_L2 = 0.3


@keras.saving.register_keras_serializable("tests")
class _Penalized(keras.layers.Layer):
    """A layer without a rule, which adds the mean square of its outputs."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 3), initializer="normal")

    def call(self, x):
        y = tf.matmul(x, self.w)
        self.add_loss(_L2 * tf.reduce_mean(tf.square(y)))
        return y


# Layers, and how many mean squares they add up.
_LAYERS = {
    "activity regularizer": (
        lambda: keras.layers.Dense(
            3, activity_regularizer=keras.regularizers.L2(_L2)
        ),
        3,
    ),
    "add_loss without a rule": (_Penalized, 1),
}


def _model(layer):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input([2]), layer, keras.layers.Dense(1, name="head")]
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", _LAYERS)
@pytest.mark.parametrize("adapt", ["all", "head"])
def test_outer_loss(name, adapt):
    make, size = _LAYERS[name]
    model = _model(make())
    learner = compiled(keras_meta.MAML(model, 0.1, adapt=adapt))
    data = regression()
    x, y = data
    learner.predict(x, verbose=0)
    expected = 0.0
    for i in range(len(y)):
        task = batch(data, i)
        adapted = learner.adapt(task[0]["support_x"], task[0]["support_y"])
        hidden = adapted.layers[0](task[0]["query_x"])
        errors = adapted(task[0]["query_x"]) - task[1]
        penalty = _L2 * size * tf.reduce_mean(tf.square(hidden))
        expected += (tf.reduce_mean(tf.square(errors)) + penalty) / len(y)
    loss = learner.evaluate(x, y, batch_size=len(y), verbose=0)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_gradient_sees_the_added_loss():
    def loss(layer):
        learner = compiled(keras_meta.MAML(_model(layer), 0.1))
        history = learner.fit(dataset(regression(20)), epochs=3, verbose=0)
        hidden = learner.model.layers[0](regression()[0]["query_x"][0])
        return history.history["loss"], float(tf.reduce_mean(hidden**2))

    with_penalty, small = loss(_LAYERS["activity regularizer"][0]())
    without, large = loss(keras.layers.Dense(3))
    assert with_penalty[-1] < with_penalty[0]
    assert small < large


@pytest.mark.slow
def test_reptile_logs_go_on_after_an_evaluation():
    model = _model(_LAYERS["activity regularizer"][0]())
    learner = compiled(keras_meta.Reptile(model))
    for _ in range(2):
        learner.fit(dataset(regression(2)), verbose=0)
        assert np.isfinite(learner.evaluate(dataset(regression(2)), verbose=0))
