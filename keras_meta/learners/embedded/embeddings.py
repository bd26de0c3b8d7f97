"""Operations on embedded sets."""

from __future__ import annotations

import tensorflow as tf


def means_of_classes(x: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Returns the weighted means of examples, `[tasks, ways, d]`.

    That of a class without an example is 0.

    Args:
        x: `[tasks, n, d]`.
        classes: Weighted shares of the classes, `[tasks, n, ways]`.
    """
    sums = tf.matmul(classes, x, transpose_a=True)
    sizes = tf.reduce_sum(classes, axis=1)[..., tf.newaxis]
    return tf.math.divide_no_nan(sums, sizes)


def unit(x: tf.Tensor, axis: int = -1) -> tf.Tensor:
    """Returns vectors of length 1 in the directions of others."""
    return tf.math.l2_normalize(x, axis=axis, epsilon=1e-12)
