"""An external memory: what one step writes and reads."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

# Added to squared lengths. An empty slot resembles nothing, and the derivative
# of its cosine stays small.
_EPSILON = 1e-3


class Memory(NamedTuple):
    """The contents of memories, and how they were used.

    Attributes:
        slots: The contents, `[sequences, slots, slot_size]`.
        read_weights: From where each head last read, `[sequences, heads,
            slots]`.
        usage: How much and how recently each slot was used, `[sequences,
            slots]`.
    """

    slots: tf.Tensor
    read_weights: tf.Tensor
    usage: tf.Tensor


def write(
    memory: Memory, values: tf.Tensor, gates: tf.Tensor, decay: float
) -> Memory:
    """Writes one value of each head.

    Args:
        memory: The memory.
        values: The values, `[sequences, heads, slot_size]`.
        gates: How far each head writes to where it last read, and not to a
            slot that is little used, `[sequences, heads, 1]`.
        decay: Decay of usage.

    Returns:
        The memory, with the usage of this step but for its reads.
    """
    heads, slots = memory.read_weights.shape[1:]
    # The lowest of equal ones come first.
    least = tf.math.top_k(-memory.usage, heads).indices
    least = tf.one_hot(least, slots, dtype=values.dtype)
    weights = gates * memory.read_weights + (1 - gates) * least
    kept = 1 - tf.reduce_sum(least, axis=1)
    written = tf.matmul(weights, values, transpose_a=True)
    return memory._replace(
        slots=kept[..., tf.newaxis] * memory.slots + written,
        usage=decay * memory.usage + tf.reduce_sum(weights, axis=1),
    )


def read(
    memory: Memory, keys: tf.Tensor, strengths: tf.Tensor
) -> tuple[Memory, tf.Tensor]:
    """Reads the slots that resemble the keys.

    Args:
        memory: The memory, as `write` returned it.
        keys: A key of each head, `[sequences, heads, slot_size]`.
        strengths: Factors of the cosines, `[heads, 1]`.

    Returns:
        The memory with its new read weights and usage, and what was read,
        `[sequences, heads, slot_size]`.
    """
    cosines = tf.matmul(_unit(keys), _unit(memory.slots), transpose_b=True)
    weights = tf.nn.softmax(strengths * cosines)
    usage = memory.usage + tf.reduce_sum(weights, axis=1)
    memory = memory._replace(read_weights=weights, usage=usage)
    return memory, tf.matmul(weights, memory.slots)


def _unit(x: tf.Tensor) -> tf.Tensor:
    squares = tf.reduce_sum(tf.square(x), axis=-1, keepdims=True)
    return x * tf.math.rsqrt(squares + _EPSILON)
