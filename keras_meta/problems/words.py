"""Random words for problem instances, the same with and without XLA."""

from __future__ import annotations

import tensorflow as tf

from keras_meta.checks import check_positive
from keras_meta.episodes.arguments import check_index
from keras_meta.episodes.arguments import check_seed
from keras_meta.episodes.random_bits import random_words

_HALF = 2**32
# A large odd number, so that streams of different seeds do not collide.
_MIX = 0x9E3779B1


def instance_words(
    seed: int | tf.Tensor,
    stream: int | tf.Tensor,
    index: int | tf.Tensor,
    rows: int,
    words: int,
) -> tf.Tensor:
    """Draws words for consecutive instances; see `random_words`.

    XLA drops the upper half of a 64-bit seed, so seeds `s` and `s + 2**32`
    would give the same instances. Here, that half is mixed into the stream.

    Args:
        seed: Seed of the instances, an integer of up to 63 bits.
        stream: Which stream of the seed to read.
        index: Index of the instance of the first row.
        rows: Number of instances.
        words: Number of words for each instance.

    Returns:
        A uint32 tensor `[rows, words]`.

    Raises:
        ValueError: If the seed or the index is not an integer, the index is
            negative, or there are no instances.
    """
    check_seed(seed)
    check_index(index)
    check_positive(instances=rows)
    if not tf.is_tensor(seed):
        seed = tf.constant(seed, tf.int64)
    seed = tf.cast(seed, tf.int64)
    upper, lower = seed // _HALF, seed % _HALF
    mixed = (tf.cast(stream, tf.int64) + upper * _MIX) % _HALF
    return random_words(lower, mixed, index, rows, words)
