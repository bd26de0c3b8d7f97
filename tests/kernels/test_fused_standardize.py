import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_meta.kernels.fused_standardize import fused_standardize
from tests.reference import assert_close
from tests.reference import few
from tests.reference import normal

pytestmark = pytest.mark.skipif(
    bool(tf.config.list_logical_devices("GPU")),
    reason="GPU kernels return different statistics",
)


def plain(x, scale, shift, epsilon):
    """The same function, for automatic differentiation."""
    mean = tf.reduce_mean(x, 0)
    variance = tf.reduce_mean(tf.square(x), 0) - tf.square(mean)
    return (x - mean) / tf.sqrt(variance + epsilon) * scale + shift


def _along(values, seed, dtype):
    """A product of the values with random numbers."""
    return tf.add_n(
        [
            tf.reduce_sum(tf.cast(normal(v.shape, seed + i), dtype) * v)
            for i, v in enumerate(values)
        ]
    )


def derivatives_to_third_order(function, values, epsilon, dtype):
    values = [tf.cast(v, dtype) for v in values]
    with tf.GradientTape() as third:
        third.watch(values)
        with tf.GradientTape() as second:
            second.watch(values)
            with tf.GradientTape() as first:
                first.watch(values)
                y = function(*values, epsilon)
                total = _along([tf.sin(y)], 10, dtype)
            one = first.gradient(total, values)
            total = _along(one, 20, dtype)
        two = second.gradient(total, values)
        total = _along(two, 30, dtype)
    return y, one, two, third.gradient(total, values)


@pytest.mark.slow
@pytest.mark.parametrize("graph", [False, True])
@few
@given(
    rows=st.integers(2, 9),
    channels=st.integers(1, 5),
    epsilon=st.sampled_from([1e-3, 0.1, 2.0]),
    seed=st.integers(0, 99),
)
def test_equals_automatic_differentiation(graph, rows, channels, epsilon, seed):
    scale = normal([channels], seed + 1)
    values = [
        2.0 + 2.0 * normal([rows, channels], seed),
        # One scale is zero, and some are negative.
        scale - scale[0],
        normal([channels], seed + 2),
    ]
    # Nearly equal rows have derivatives that overflow float32.
    variance = tf.math.reduce_variance(values[0], 0)
    if tf.reduce_min(variance) < 0.5:
        return

    def run():
        return derivatives_to_third_order(
            fused_standardize, values, epsilon, tf.float32
        )

    actual = tf.function(run, autograph=False)() if graph else run()
    expected = derivatives_to_third_order(plain, values, epsilon, tf.float64)
    assert_close(actual, expected, 1e-4)
