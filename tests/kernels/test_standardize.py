import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_meta.kernels.standardize import standardize
from tests.reference import assert_close
from tests.reference import few
from tests.reference import normal


def plain(x, axes, epsilon):
    """Standardization, for automatic differentiation."""
    mean = tf.reduce_mean(x, axes, keepdims=True)
    square = tf.reduce_mean(x * x, axes, keepdims=True)
    return (x - mean) / tf.sqrt(square - mean * mean + epsilon)


def derivatives_to_third_order(function, x):
    """Returns the value and directional derivatives of orders one to three."""
    weights = [normal(x.shape, 10 + i) for i in range(3)]
    with tf.GradientTape() as third:
        third.watch(x)
        with tf.GradientTape() as second:
            second.watch(x)
            with tf.GradientTape() as first:
                first.watch(x)
                y = function(x)
                total = tf.reduce_sum(weights[0] * y)
            one = first.gradient(total, x)
            total = tf.reduce_sum(weights[1] * one)
        two = second.gradient(total, x)
        total = tf.reduce_sum(weights[2] * two)
    return [y, one, two, third.gradient(total, x)]


@st.composite
def shapes_and_axes(draw):
    shape = draw(st.lists(st.integers(2, 4), min_size=1, max_size=4))
    every = st.integers(0, len(shape) - 1)
    return shape, sorted(draw(st.sets(every, min_size=1)))


@pytest.mark.slow
@few
@given(case=shapes_and_axes(), epsilon=st.sampled_from([1e-3, 0.1, 2.0]))
def test_equals_automatic_differentiation_to_third_order(case, epsilon):
    shape, axes = case
    x = 3.0 + 2.0 * normal(shape, 1)
    actual = derivatives_to_third_order(
        lambda x: standardize(x, axes, epsilon), x
    )
    expected = derivatives_to_third_order(lambda x: plain(x, axes, epsilon), x)
    assert_close(actual, expected)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_traced_with_unknown_sizes(jit_compile):
    x = normal([3, 4, 2], 1)
    expected = derivatives_to_third_order(
        lambda x: standardize(x, [1], 1e-3), x
    )

    def run(x):
        weights = [normal([3, 4, 2], 10 + i) for i in range(2)]
        with tf.GradientTape() as second:
            second.watch(x)
            with tf.GradientTape() as first:
                first.watch(x)
                y = standardize(x, [1], 1e-3)
                total = tf.reduce_sum(weights[0] * y)
            one = first.gradient(total, x)
            total = tf.reduce_sum(weights[1] * one)
        return [y, one, second.gradient(total, x)]

    unknown = [3, 4, 2] if jit_compile else [None, None, 2]
    traced = tf.function(
        run,
        input_signature=[tf.TensorSpec(unknown, tf.float64)],
        autograph=False,
        jit_compile=jit_compile,
    )
    assert_close(traced(x), expected[:3])


def test_constant_input_has_finite_derivatives():
    x = tf.ones([2, 5, 3], tf.float64)
    for derivative in derivatives_to_third_order(
        lambda x: standardize(x, [1], 1e-3), x
    ):
        assert tf.reduce_all(tf.math.is_finite(derivative))
