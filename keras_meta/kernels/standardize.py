"""Standardization, with derivatives in closed form.

With the mean `m` over the standardized axes and `s = (variance + eps)^-1/2`,

    z = s (x - m(x))
    dx = s P(dz),  P(u) = u - m(u) - z m(z u).

`P` is symmetric. So the derivative of `dx`, as a function of `dz` and `x`,
maps an arriving gradient `c` to

    s P(c)                                            for dz,
    -s (s v z + m(z dz) s P(c) + m(z c) s P(dz))      for x,
    v = m(c dz) - m(c) m(dz) - m(z c) m(z dz).

Automatic differentiation needs about twice as many passes over the data, some
of them for sums that are zero.

`tf.nn.moments`, which Keras's layers use, hides the mean inside the variance
from differentiation. The first derivative is still right, but the second is
wrong: the Hessian of the variance comes out as 2/N I instead of
2/N (I - 11'/N).
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def moments(x: tf.Tensor, axes: Sequence[int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mean and biased variance, with exact derivatives to any order.

    Args:
        x: A tensor of any shape.
        axes: Axes to reduce. They are kept with size 1.
    """
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(
        tf.math.squared_difference(x, mean), axes, keepdims=True
    )
    return mean, variance


def standardize(x: tf.Tensor, axes: Sequence[int], epsilon: float) -> tf.Tensor:
    """Subtracts the mean and divides by the standard deviation.

    Args:
        x: A tensor of any shape.
        axes: Axes over which mean and variance are taken.
        epsilon: Added to the variance.

    Returns:
        A tensor of the same shape, with exact derivatives to any order.
    """

    @tf.custom_gradient
    def function(x):
        z, _ = _forward(x, axes, epsilon)
        return z, lambda dz: _backward(x, dz, axes, epsilon)

    return function(x)


def _forward(x, axes, epsilon):
    mean, variance = moments(x, axes)
    scale = tf.math.rsqrt(variance + epsilon)
    return (x - mean) * scale, scale


def _backward(x, dz, axes, epsilon):
    def mean(u):
        return tf.reduce_mean(u, axes, keepdims=True)

    @tf.custom_gradient
    def function(x, dz):
        z, scale = _forward(x, axes, epsilon)
        dx = scale * (dz - mean(dz) - z * mean(z * dz))

        def gradient(c):
            # Recomputed from the arguments, as higher derivatives require. A
            # graph still contains it only once.
            z, scale = _forward(x, axes, epsilon)
            mean_c, mean_dz = mean(c), mean(dz)
            z_c, z_dz = mean(z * c), mean(z * dz)
            to_dz = scale * (c - mean_c - z * z_c)
            v = mean(c * dz) - mean_c * mean_dz - z_c * z_dz
            dx = scale * (dz - mean_dz - z * z_dz)
            to_x = -scale * (scale * v * z + z_dz * to_dz + z_c * dx)
            return to_x, to_dz

        return dx, gradient

    return function(x, dz)
