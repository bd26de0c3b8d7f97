"""Random numbers as a pure function of a seed and a position.

The generator, Philox, is counter based: any part of its stream can be
computed without the parts before it. Each episode reads its own part of the
stream, so it does not depend on how many others are drawn with it.
"""

import tensorflow as tf

# Philox yields four 32-bit words for each counter value.
_WORDS_PER_BLOCK = 4
_PHILOX = 1


def random_words(
    seed: int | tf.Tensor,
    stream: int,
    index: int | tf.Tensor,
    rows: int,
    words: int,
) -> tf.Tensor:
    """Returns uniform 32-bit words for consecutive episodes.

    Args:
        seed: Integer seed. Do not compile this function with XLA, which
            would drop all but the lower 32 bits.
        stream: Which of the seed's independent streams to read. Each purpose
            has its own.
        index: Index of the episode of the first row, at least 0.
        rows: Number of episodes.
        words: Number of words for each episode.

    Returns:
        A uint32 tensor `[rows, words]`. A row depends only on `seed`,
        `stream`, `words` and the index of its episode.

    Example:
    >>> both = random_words(seed=1, stream=0, index=5, rows=2, words=3)
    >>> alone = random_words(seed=1, stream=0, index=6, rows=1, words=3)
    >>> bool(tf.reduce_all(both[1:] == alone))
    True
    """
    blocks = -(-words // _WORDS_PER_BLOCK)
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(
        seed=tf.stack([tf.cast(seed, tf.int64), tf.cast(stream, tf.int64)])
    )
    offset = tf.cast(index, tf.uint64) * tf.cast(blocks, tf.uint64)
    bits = tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=[rows, blocks * _WORDS_PER_BLOCK],
        key=key,
        counter=counter + tf.stack([offset, tf.zeros_like(offset)]),
        alg=_PHILOX,
        dtype=tf.uint32,
    )
    return bits[:, :words]


def integers_below(words: tf.Tensor, bound: int | tf.Tensor) -> tf.Tensor:
    """Turns words into integers from `0` to `bound - 1`.

    Args:
        words: uint32 tensor of any shape.
        bound: Positive integers that broadcast against `words`.

    Returns:
        An int32 tensor. The probabilities of the values are equal to within
        2**-32.

    Example:
    >>> words = tf.constant([0, 2**31, 2**32 - 1], tf.uint32)
    >>> integers_below(words, 10).numpy().tolist()
    [0, 5, 9]
    """
    product = tf.cast(words, tf.int64) * tf.cast(bound, tf.int64)
    return tf.cast(
        tf.bitwise.right_shift(product, tf.constant(32, tf.int64)), tf.int32
    )


def floats_between(
    words: tf.Tensor, low: float | tf.Tensor, high: float | tf.Tensor
) -> tf.Tensor:
    """Turns words into uniform floats from `low` to `high`.

    Args:
        words: uint32 tensor of any shape.
        low: Smallest values; they broadcast against `words`.
        high: Largest values, at least `low`.

    Returns:
        A float32 tensor with the shape of `words` and values in `[low, high]`.

    Example:
    >>> words = tf.constant([0, 2**31], tf.uint32)
    >>> floats_between(words, -1.0, 1.0).numpy().tolist()
    [-1.0, 0.0]
    """
    # float32 holds 24 bits; dropping the low 8 keeps the spacing uniform.
    bits = tf.bitwise.right_shift(words, tf.constant(8, tf.uint32))
    unit = tf.cast(bits, tf.float32) * 2.0**-24
    low = tf.convert_to_tensor(low, tf.float32)
    high = tf.convert_to_tensor(high, tf.float32)
    return tf.clip_by_value(low + unit * (high - low), low, high)
