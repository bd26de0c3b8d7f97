"""A loop computes what steps laid out one after another compute."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_meta
from keras_meta.inner import loop

from .helpers import WAYS
from .helpers import classification
from .helpers import compiled
from .helpers import crossentropy


def convolution():
    return keras.Sequential(
        [
            keras.Input([6, 6, 1]),
            layers.Conv2D(3, 3, 2, padding="same"),
            layers.BatchNormalization(),
            layers.Activation("softplus"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(WAYS),
        ]
    )


def attention():
    inputs = keras.Input([4, 6])
    x = inputs + layers.MultiHeadAttention(2, 3)(inputs, inputs)
    x = layers.Permute((2, 1))(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(WAYS)(layers.Flatten()(x)))


def einsum():
    return keras.Sequential(
        [
            keras.Input([4, 6]),
            layers.EinsumDense("abc,cd->abd", output_shape=(4, 4)),
            layers.GroupNormalization(2),
            layers.Flatten(),
            layers.Dense(WAYS),
        ]
    )


def pooling():
    return keras.Sequential(
        [
            keras.Input([6, 6, 1]),
            layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2),
            layers.AveragePooling2D(2),
            layers.Conv2DTranspose(2, 2, 2),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(WAYS),
        ]
    )


def channels_first():
    return keras.Sequential(
        [
            keras.Input([1, 6, 6]),
            layers.Conv2D(3, 3, 2, data_format="channels_first"),
            layers.BatchNormalization(axis=1),
            layers.Flatten(),
            layers.Dense(WAYS),
        ]
    )


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("make", "jit_compile"),
    [
        (convolution, False),
        (einsum, True),
        pytest.param(convolution, True, marks=pytest.mark.slow),
        pytest.param(einsum, False, marks=pytest.mark.slow),
        *[
            pytest.param(make, jit_compile, marks=pytest.mark.slow)
            for make in (attention, pooling, channels_first)
            for jit_compile in (False, True)
        ],
    ],
)
def test_a_loop_takes_the_same_step(make, jit_compile, monkeypatch):
    moves = []
    for laid_out in (10, 1):
        monkeypatch.setattr(loop, "_LAID_OUT_STEPS", laid_out)
        keras.utils.set_random_seed(0)
        learner = compiled(
            keras_meta.MAML(make(), 0.1, steps=3),
            keras.optimizers.SGD(1.0),
            crossentropy(),
            jit_compile=jit_compile,
        )
        before = [w.numpy() for w in learner.trainable_weights]
        shape = learner.model.input_shape[1:]
        learner.train_on_batch(*classification(shape=shape))
        after = [w.numpy() for w in learner.trainable_weights]
        moves.append([a - b for a, b in zip(after, before, strict=True)])
    for move, other in zip(*moves, strict=True):
        np.testing.assert_allclose(other, move, rtol=1e-8, atol=1e-11)
