"""Standardization by TensorFlow's fused kernels, to any order of derivative.

Without XLA, each elementwise operation makes its own pass over memory. The
kernels of batch normalization make one pass for everything, and are two to
three times as fast. TensorFlow's second derivative of them is a formula of
many operations, and there is no third. Here, the derivative of the kernel is
again the kernel plus a few sums.

With the mean `m` over the rows, `s = (variance + eps)^-1/2`,
`z = s (x - m(x))` and `P(u) = u - m(u) - z m(z u)`, see `standardize`,

    y = g z + b,    dx = g s P(dy),    dg = n m(z dy),    db = n m(dy).

Gradients `c`, `a` and `e` that arrive at these three pass on

    g s P(c) + a z + e                                         to dy,
    n s v                                                      to g,
    r s P(dy) - m(z dy) s g s P(c) - g s^2 v z                 to x,
    r = a - g s m(z c),
    v = m(c dy) - m(c) m(dy) - m(z c) m(z dy).

Only `g s P(c)` needs a kernel: `z` and `P(dy)` are linear in `x` and `dy`.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf


class _Statistics(NamedTuple):
    """What the kernel of `y` hands to the kernels of its derivatives.

    Attributes:
        mean: Mean of each column, `[channels]`.
        variance: Biased variance of each column, `[channels]`.
        rest: Other values that the kernels need.
    """

    mean: tf.Tensor
    variance: tf.Tensor
    rest: tf.Tensor


def fused_standardize(
    x: tf.Tensor, scale: tf.Tensor, shift: tf.Tensor, epsilon: float
) -> tf.Tensor:
    """Standardizes each column, then scales and shifts it.

    Args:
        x: `[rows, channels]`, float32.
        scale: `[channels]`, float32.
        shift: `[channels]`, float32.
        epsilon: Added to the variance.

    Returns:
        `[rows, channels]`, with exact derivatives to any order.
    """

    @tf.custom_gradient
    def function(x, scale, shift):
        y, _, _, *statistics = tf.raw_ops.FusedBatchNormV3(
            x=_as_image(x),
            scale=scale,
            offset=shift,
            mean=[],
            variance=[],
            epsilon=epsilon,
            is_training=True,
        )
        statistics = _Statistics(*statistics)

        def gradient(dy):
            return _derivative(x, dy, scale, statistics, epsilon)

        return _as_rows(y), gradient

    return function(x, scale, shift)


def _derivative(x, dy, scale, statistics: _Statistics, epsilon: float):
    """Returns `dx, dg, db` as functions of `x`, `dy` and `scale`."""

    # The statistics are arguments, because TensorFlow searches everything else
    # for variables.
    @tf.custom_gradient
    def function(x, dy, scale, *statistics):
        statistics = _Statistics(*statistics)
        dx, dscale, dshift, _, _ = tf.raw_ops.FusedBatchNormGradV3(
            y_backprop=_as_image(dy),
            x=_as_image(x),
            scale=scale,
            reserve_space_1=statistics.mean,
            reserve_space_2=statistics.variance,
            reserve_space_3=statistics.rest,
            epsilon=epsilon,
            is_training=True,
        )

        def gradient(*arrived):
            sent = _second_derivative(
                x, dy, scale, arrived, statistics, epsilon
            )
            return (*sent, *[None] * len(statistics))

        return (_as_rows(dx), dscale, dshift), gradient

    return function(x, dy, scale, *statistics)


def _second_derivative(x, dy, scale, arrived, statistics, epsilon: float):
    """Returns what `c, a, e` pass on to `x`, `dy` and `scale`."""
    c, a, e = arrived
    n = tf.cast(tf.shape(x)[0], x.dtype)
    mean, variance = _as_function(x, statistics)
    s = tf.math.rsqrt(variance + epsilon)
    _, z_dy, mean_dy = _derivative(x, dy, scale, statistics, epsilon)
    p_c, z_c, mean_c = _derivative(x, c, scale, statistics, epsilon)
    z_dy, mean_dy, z_c, mean_c = z_dy / n, mean_dy / n, z_c / n, mean_c / n
    v = tf.reduce_sum(c * dy, 0) / n - mean_c * mean_dy - z_c * z_dy
    dy_rate = s * (a - scale * s * z_c)
    x_rate = -s * (scale * tf.square(s) * v + dy_rate * z_dy)
    to_x = tf.add_n([dy * dy_rate, p_c * (-s * z_dy), x * x_rate])
    to_x -= dy_rate * mean_dy + x_rate * mean
    to_dy = p_c + (x * (a * s) + (e - a * s * mean))
    return to_x, to_dy, n * s * v


def _as_function(x, statistics: _Statistics):
    """Returns the known mean and variance as differentiable in `x`."""

    @tf.custom_gradient
    def function(x, mean, variance):
        def gradient(dmean, dvariance):
            n = tf.cast(tf.shape(x)[0], x.dtype)
            centered = x - tf.reduce_mean(x, 0)
            return dmean / n + centered * (2 * dvariance / n), None, None

        return (tf.identity(mean), tf.identity(variance)), gradient

    return function(x, statistics.mean, statistics.variance)


def _as_image(x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, [1, -1, 1, x.shape[1]])


def _as_rows(x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(x, [-1, x.shape[3]])
