"""Sums over the rows of each task's matrix, and their transpose.

XLA's CPU backend fuses a reduction with everything that computes its input,
and computes that input again in every other fusion that reads it. Matrix
products are the boundary of a fusion, so on the CPU a sum over rows is a
product with a row of ones, and repeating a row is one with a column of ones:
the elementwise work around them is done once. On other devices reductions
are fast, and matrix products may round their inputs (TF32), so there the
plain operations are used.
"""

from __future__ import annotations

import tensorflow as tf


def mean_rows(x: tf.Tensor) -> tf.Tensor:
    """Averages over rows: `[tasks, rows, columns]` to `[tasks, 1, columns]`."""
    if not _is_cpu():
        return tf.reduce_mean(x, axis=1, keepdims=True)
    ones = tf.ones_like(x[:, :, :1])
    weights = ones / tf.cast(tf.shape(x)[1], x.dtype)
    return tf.matmul(weights, x, transpose_a=True)


def repeat_rows(row: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """Repeats `[tasks, 1, columns]` to the rows of `like`."""
    if not _is_cpu():
        return tf.broadcast_to(row, tf.shape(like))
    ones = tf.ones_like(like[:, :, :1])
    return tf.matmul(ones, row)


def _is_cpu() -> bool:
    return not tf.config.list_logical_devices("GPU")
