"""Discounted sums over time."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def discounted_sums(
    x: tf.Tensor, discount: float, *, backwards: bool = False
) -> tf.Tensor:
    """Returns `y[t] = sum over s >= t of discount ** (s - t) * x[s]`.

    Args:
        x: `[..., time]`, of static length.
        discount: The factor of one step.
        backwards: Whether to sum over `s <= t` instead, with
            `discount ** (t - s)`.
    """
    time = np.arange(x.shape[-1])
    ahead = time[:, np.newaxis] - time
    powers = np.where(ahead >= 0, float(discount) ** np.maximum(ahead, 0), 0)
    matrix = tf.constant(powers.T if backwards else powers, x.dtype)
    return tf.tensordot(x, matrix, axes=1)
