"""Second derivatives in Keras equal central differences of the first."""

import keras
import numpy as np
import pytest
import tensorflow as tf

_STEP = 1e-5
_POINTS = np.linspace(0.13, 0.87, 6)
_LARGE = np.linspace(1.2, 2.9, 6)
_WITHOUT_DERIVATIVE = ("unique", "view")


def functions():
    """All elementwise Keras functions of one float tensor."""
    places = keras.activations, keras.ops
    named = {name: getattr(p, name) for p in places for name in dir(p)}
    return {
        name: function
        for name, function in named.items()
        if name[0].islower()
        and name not in _WITHOUT_DERIVATIVE
        and _is_elementwise(function)
    }


def _is_elementwise(function) -> bool:
    x = tf.constant(_POINTS)
    try:
        y = function(x)
    except Exception:  # It takes other arguments.
        return False
    return tf.is_tensor(y) and y.dtype.is_floating and y.shape == x.shape


def _derivative(function, x, twice=False):
    x = tf.constant(x)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = function(x)
        first = inner.gradient(y, x, unconnected_gradients="zero")
    if not twice:
        return first
    return outer.gradient(first, x, unconnected_gradients="zero")


FUNCTIONS = functions()


def test_finds_the_functions():
    assert {"gelu", "softsign", "tanh", "erf", "softmax"} <= {*FUNCTIONS}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_exact_second_derivatives(name):
    function = FUNCTIONS[name]
    for x in (_POINTS, -_POINTS, _LARGE):
        second = _derivative(function, x, twice=True)
        above = _derivative(function, x + _STEP)
        below = _derivative(function, x - _STEP)
        expected = (above - below) / (2 * _STEP)
        # Roots and logarithms are not defined everywhere.
        defined = np.isfinite(expected)
        scale = 1 + np.abs(expected[defined])
        np.testing.assert_array_less(
            np.abs(second - expected)[defined] / scale, 1e-5
        )
