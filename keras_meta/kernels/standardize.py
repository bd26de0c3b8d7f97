"""Standardization, with derivatives in closed form.

With the mean `m` over the standardized axes and `s = (variance + eps)^-1/2`,

    z = s (x - m(x))
    dx = s P(dz),  P(u) = u - m(u) - z m(z u).

`P` is symmetric. So the derivative of `dx`, seen as a function of `dz` and
`x`, sends what arrives, `c`, to

    s P(c)                                            for dz,
    -s (s v z + m(z dz) s P(c) + m(z c) s P(dz))      for x,
    v = m(c dz) - m(c) m(dz) - m(z c) m(z dz).

Automatic differentiation computes the same with about twice the passes over
the data, among them sums that are zero.

`tf.nn.moments`, which Keras's layers use, hides the mean inside the variance
from differentiation. That leaves the first derivative right and makes the
second one wrong: the Hessian of the variance comes out as 2/N I instead of
2/N (I - 11'/N).
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def moments(x: tf.Tensor, axes: Sequence[int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mean and biased variance, right to any order of derivative.

    Args:
        x: Any shape.
        axes: Axes to reduce; they are kept with size 1.
    """
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(
        tf.math.squared_difference(x, mean), axes, keepdims=True
    )
    return mean, variance


def standardize(x: tf.Tensor, axes: Sequence[int], epsilon: float) -> tf.Tensor:
    """Subtracts the mean and divides by the standard deviation.

    Args:
        x: Any shape.
        axes: Axes over which mean and variance are taken.
        epsilon: Added to the variance.

    Returns:
        `x`'s shape, with derivatives right to any order.
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
            # Computed from the arguments again, as still higher derivatives
            # need it; a graph holds it only once.
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
