"""Merging the task axis into the batch axis, and splitting it off again."""

from __future__ import annotations

import tensorflow as tf


def merge(x: tf.Tensor) -> tf.Tensor:
    """Merges tasks into the batch: `[tasks, n, ...]` to `[tasks * n, ...]`."""
    tasks, examples = x.shape[:2]
    # Where further sizes are open, TensorFlow would not infer this one.
    batch = -1 if None in (tasks, examples) else tasks * examples
    return tf.reshape(x, [batch, *_sizes(x, 2)])


def split(x: tf.Tensor, tasks: int | tf.Tensor) -> tf.Tensor:
    """Undoes `merge`: `[tasks * n, ...]` to `[tasks, n, ...]`."""
    batch = x.shape[0]
    is_known = batch is not None and isinstance(tasks, int)
    examples = batch // tasks if is_known and batch % tasks == 0 else -1
    return tf.reshape(x, [tasks, examples, *_sizes(x, 1)])


def stack(x: tf.Tensor, tasks: int | tf.Tensor) -> tf.Tensor:
    """Repeats a value for every task: `[...]` to `[tasks, ...]`."""
    return tf.broadcast_to(x, [tasks, *_sizes(x, 0)])


def stack_to(x: tf.Tensor, tasks: int | tf.Tensor) -> tf.Tensor:
    """Repeats along a task axis of size 1; leaves a full one unchanged."""
    return tf.broadcast_to(x, [tasks, *_sizes(x, 1)])


def repeat(x: tf.Tensor, copies: int) -> tf.Tensor:
    """Repeats all tasks: `[tasks, ...]` to `[copies * tasks, ...]`."""
    return tf.tile(x, [copies, *[1] * (x.shape.rank - 1)])


def size(x: tf.Tensor, axis: int) -> int | tf.Tensor:
    """Returns the size of an axis, static where it is known."""
    static = x.shape[axis]
    return tf.shape(x)[axis] if static is None else static


def _sizes(x: tf.Tensor, first: int) -> list[int | tf.Tensor]:
    return [size(x, axis) for axis in range(first, x.shape.rank)]
