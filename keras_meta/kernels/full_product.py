"""Matrix products that a GPU does not round to TensorFloat-32."""

from __future__ import annotations

import tensorflow as tf


def full_product(
    a: tf.Tensor,
    b: tf.Tensor,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
) -> tf.Tensor:
    """Returns `tf.matmul` of two arrays in their full precision.

    By default, TensorFlow rounds the factors of float32 products on a GPU to
    10 bits. A layer learns all the same. Where large terms cancel, as in
    Newton's method near a minimum, or between points that are close to each
    other, too little is left. So this computes in float64 where TensorFlow
    would round.

    Not for the layers of a model, whose precision is the user's choice, and
    not for large products: many GPUs are slow in float64.

    Args:
        a: The first factor, `[..., m, n]`, or `[..., n, m]` if transposed.
        b: The second factor, `[..., n, k]`, or `[..., k, n]` if transposed.
        transpose_a: Whether to transpose the first.
        transpose_b: Whether to transpose the second.
    """
    options = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    if a.dtype != tf.float32 or not _rounds_products():
        return tf.matmul(a, b, **options)
    product = tf.matmul(
        tf.cast(a, tf.float64), tf.cast(b, tf.float64), **options
    )
    return tf.cast(product, tf.float32)


def _rounds_products() -> bool:
    is_allowed = tf.config.experimental.tensor_float_32_execution_enabled()
    return is_allowed and bool(tf.config.list_logical_devices("GPU"))
