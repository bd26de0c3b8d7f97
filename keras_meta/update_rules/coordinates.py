"""Several tensors as one vector of coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def join(tensors: Sequence[tf.Tensor], dtype: str) -> tf.Tensor:
    """Concatenates the coordinates of tensors, `[coordinates]`."""
    flat = [tf.reshape(tf.cast(x, dtype), [-1]) for x in tensors]
    return tf.concat(flat, axis=0)


def split(joined: tf.Tensor, like: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Undoes `join`, with the shapes and types of `like`."""
    shapes = [
        x.shape if x.shape.is_fully_defined() else tf.shape(x) for x in like
    ]
    parts = tf.split(joined, [_size(x) for x in like])
    return [
        tf.cast(tf.reshape(part, shape), x.dtype)
        for part, shape, x in zip(parts, shapes, like, strict=True)
    ]


def count(tensors: Sequence[tf.Tensor]) -> int | tf.Tensor:
    """Returns the number of coordinates, as an integer if it is known."""
    sizes = [_size(x) for x in tensors]
    if all(isinstance(size, int) for size in sizes):
        return sum(sizes)
    return tf.add_n([tf.convert_to_tensor(size) for size in sizes])


def _size(x: tf.Tensor) -> int | tf.Tensor:
    static = x.shape.num_elements()
    return tf.size(x) if static is None else static
