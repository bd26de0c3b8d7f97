"""Many training steps in one compiled loop that is fed while it runs.

A step on a small problem takes less time than TensorFlow's call of it. So XLA
compiles a loop over the steps of a chunk of batches. While the loop runs, the
next chunk is read from the data set.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

# Most bytes that the batches of a chunk may take.
_CHUNK_BYTES = 2**25
# An execution waits only for its first chunk.
_CHUNKS = 8


def chunk_size(spec: Any, steps: int) -> int | None:
    """Returns the number of batches in a chunk, or `None` for single steps.

    Args:
        spec: The data set's `element_spec`.
        steps: Steps to take at a time, Keras's `steps_per_execution`.
    """
    leaves = keras.tree.flatten(spec)
    if not all(map(_is_static, leaves)):
        return None
    size = sum(math.prod(s.shape) * s.dtype.size for s in leaves)
    chunk = min(-(-steps // _CHUNKS), _CHUNK_BYTES // max(size, 1))
    return chunk if chunk > 1 else None


def make_many_steps(
    step: Callable[[Any], Any], spec: Any, steps: int, chunk: int
) -> Callable[[tf.data.Iterator], Any]:
    """Returns a function that takes `steps` steps, or fewer if data run out.

    Args:
        step: A function of a batch that changes variables and returns the
            step's logs. XLA must be able to compile it.
        spec: The data set's `element_spec`.
        steps: Number of steps.
        chunk: Number of batches to read at a time.

    Returns:
        A function of an iterator. It returns the logs of the last step, and
        raises `StopIteration` if there is no batch.
    """
    take = tf.function(
        lambda batches, count: _take(step, spec, batches, count),
        autograph=False,
        jit_compile=True,
    )
    logs_spec = take.get_concrete_function(
        [
            tf.TensorSpec([chunk, *leaf.shape], leaf.dtype)
            for leaf in keras.tree.flatten(spec)
        ],
        tf.TensorSpec([], tf.int32),
    ).structured_outputs

    @tf.function(autograph=False)
    def run(iterator, batch):
        def body(batches, count, batch, left, _):
            # These two are independent and run in parallel.
            logs = take(batches, count)
            batches, count, batch = _read(iterator, batch, spec, chunk, left)
            return batches, count, batch, left - count, logs

        batches, count, batch = _read(
            iterator, batch, spec, chunk, tf.constant(steps)
        )
        *_, logs = tf.while_loop(
            lambda batches, count, *_: count > 0,
            body,
            (
                batches,
                count,
                batch,
                steps - count,
                keras.tree.map_structure(
                    lambda x: tf.zeros(x.shape, x.dtype), logs_spec
                ),
            ),
        )
        return logs

    def call(iterator):
        batch = iterator.get_next_as_optional()
        if not batch.has_value():
            raise StopIteration
        return run(iterator, batch)

    return call


def _take(step, spec, batches, count):
    """Takes a step on each of the first `count` batches, at least one."""

    def one(i):
        return step(keras.tree.pack_sequence_as(spec, [x[i] for x in batches]))

    _, logs = tf.while_loop(
        lambda i, _: i < count, lambda i, _: (i + 1, one(i)), (1, one(0))
    )
    return logs


def _read(iterator, batch, spec, chunk: int, left):
    """Reads up to `chunk` batches, and no more than `left`.

    Args:
        iterator: The iterator.
        batch: An optional that holds the first batch.
        spec: The data set's `element_spec`.
        chunk: Number of batches to read.
        left: Number of batches that this execution may still read, including
            the first.

    Returns:
        The stacked batches, their number, and the optional that follows them.
    """
    arrays = [
        tf.TensorArray(leaf.dtype, chunk, element_shape=leaf.shape)
        for leaf in keras.tree.flatten(spec)
    ]

    def body(i, batch, arrays):
        leaves = keras.tree.flatten(batch.get_value())
        arrays = [a.write(i, x) for a, x in zip(arrays, leaves, strict=True)]
        batch = tf.cond(
            i + 1 < left, iterator.get_next_as_optional, lambda: batch
        )
        return i + 1, batch, arrays

    count, batch, arrays = tf.while_loop(
        lambda i, batch, _: tf.logical_and(
            i < tf.minimum(chunk, left), batch.has_value()
        ),
        body,
        (tf.zeros([], tf.int32), batch, arrays),
    )
    return [array.stack() for array in arrays], count, batch


def _is_static(spec) -> bool:
    return isinstance(spec, tf.TensorSpec) and spec.shape.is_fully_defined()
