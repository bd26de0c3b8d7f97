"""Which models need no trial before their first call."""

import keras
import pytest
from keras import ops

from keras_meta.batching.batch_axis import is_batched_throughout
from tests.reference import assert_equals_loop
from tests.reference import normal

layers = keras.layers


def sequential(*stack):
    return keras.Sequential([keras.Input([4]), *stack, layers.Dense(2)])


def functional(middle):
    inputs = keras.Input([4])
    return keras.Model(inputs, layers.Dense(2)(middle(inputs)))


class Own(layers.Dense):
    pass


def replaced():
    layer = layers.Dense(3)
    layer.call = lambda x: x
    return layer


KNOWN = {
    "plain": lambda: sequential(
        layers.Dense(4, "gelu"), layers.LayerNormalization(), layers.ReLU()
    ),
    "shapes": lambda: sequential(
        layers.Reshape([2, 2, 1]), layers.MaxPooling2D(), layers.Flatten()
    ),
    "nested": lambda: sequential(sequential()),
    "functional": lambda: functional(lambda x: layers.add([x, x])),
}
UNKNOWN = {
    "an own activation": lambda: sequential(layers.Dense(4, ops.sin)),
    "an own layer": lambda: sequential(Own(3)),
    "a replaced call": lambda: sequential(replaced()),
    "a lambda": lambda: sequential(layers.Lambda(ops.sin)),
    "an operation": lambda: functional(ops.sin),
    "a layer of layers": lambda: sequential(
        layers.Reshape([2, 2]), layers.LSTM(3)
    ),
    "nested": lambda: sequential(sequential(layers.Lambda(ops.sin))),
}


@pytest.mark.parametrize("name", KNOWN)
def test_common_models_keep_the_batch_first(name):
    # As many examples, two tasks of two, as features.
    model = KNOWN[name]()
    assert is_batched_throughout(model)
    assert not assert_equals_loop(model, normal([2, 2, 4])).has_fallback


@pytest.mark.parametrize("name", UNKNOWN)
def test_nothing_is_known_of_other_models(name):
    assert not is_batched_throughout(UNKNOWN[name]())
