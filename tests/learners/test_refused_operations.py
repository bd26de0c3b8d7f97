"""Operations that would be differentiated wrongly are refused."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

from .helpers import classification
from .helpers import compiled
from .helpers import crossentropy
from .helpers import refuses
from .helpers import regression


class _DirectPooling(keras.layers.Layer):
    def call(self, x):
        return tf.nn.max_pool2d(x, 2, 2, "VALID", name="pool")


def _pooling_net():
    return keras.Sequential(
        [
            keras.Input([6, 6, 1]),
            keras.layers.Conv2D(2, 3, activation="tanh"),
            _DirectPooling(),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


def _pooling_learner(jit_compile, **kwargs):
    return compiled(
        keras_meta.MAML(_pooling_net(), 0.1, **kwargs),
        loss=crossentropy(),
        jit_compile=jit_compile,
    )


def test_direct_max_pooling_is_refused_under_xla():
    learner = _pooling_learner(True)
    with refuses(
        ValueError, "max-pooling operation directly.*wrong under XLA.*Max"
    ):
        learner.train_on_batch(*classification(shape=(6, 6, 1)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("jit_compile", "meta_gradient"),
    [(False, "unrolled"), (True, "first_order")],
)
def test_direct_max_pooling_is_accepted_elsewhere(jit_compile, meta_gradient):
    learner = _pooling_learner(jit_compile, meta_gradient=meta_gradient)
    data = classification(shape=(6, 6, 1))
    assert np.isfinite(learner.train_on_batch(*data))


@pytest.mark.slow
def test_direct_moments_are_refused_at_second_order():
    class Standardize(keras.layers.Layer):
        def call(self, x):
            mean, variance = tf.nn.moments(x, [-1], keepdims=True)
            return (x - mean) / tf.sqrt(variance + 1e-3)

    model = keras.Sequential(
        [
            keras.Input([2]),
            keras.layers.Dense(4),
            Standardize(),
            keras.layers.Dense(1),
        ]
    )
    learner = compiled(keras_meta.MAML(model, 0.1))
    with refuses(ValueError, "calls tf.nn.moments .*first_order"):
        learner.train_on_batch(*regression())
    learner = compiled(keras_meta.MAML(model, 0.1, meta_gradient="first_order"))
    assert np.isfinite(learner.train_on_batch(*regression()))
