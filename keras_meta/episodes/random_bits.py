"""Random numbers that are a pure function of a seed and a position.

The generator behind them, Philox, is counter based: any part of its stream
can be computed without what comes before. Row `i` of a draw is that part of
the stream that belongs to episode `i`, so an episode does not depend on how
many others are drawn with it.
"""

import tensorflow as tf

# Philox yields four 32-bit words for each value of its counter.
_WORDS_PER_BLOCK = 4
_PHILOX = 1


def random_words(
    seed: int | tf.Tensor,
    stream: int,
    index: int | tf.Tensor,
    rows: int,
    words: int,
) -> tf.Tensor:
    """Uniform 32-bit words for consecutive episodes.

    Args:
        seed: Seed, an integer. XLA, where no episodes are drawn, would drop
            all but its lower 32 bits.
        stream: Which of the independent streams of the seed to read. Each
            purpose reads its own.
        index: Index of the episode that the first row belongs to, at least 0.
        rows: Number of episodes.
        words: Number of words for each episode.

    Returns:
        A uint32 tensor `[rows, words]`. A row depends on `seed`, `stream`,
        `words` and the index of its episode only.

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
        An int32 tensor, each value as likely as the others up to
        `bound / 2**32`.

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
        low: Smallest values, which broadcast against `words`.
        high: Largest values, not below `low`.

    Returns:
        A float32 tensor of the shape of `words`, with values in
        `[low, high]`.

    Example:
    >>> words = tf.constant([0, 2**31], tf.uint32)
    >>> floats_between(words, -1.0, 1.0).numpy().tolist()
    [-1.0, 0.0]
    """
    # float32 holds 24 bits: dropping the low eight keeps the steps even.
    bits = tf.bitwise.right_shift(words, tf.constant(8, tf.uint32))
    unit = tf.cast(bits, tf.float32) * 2.0**-24
    low = tf.convert_to_tensor(low, tf.float32)
    high = tf.convert_to_tensor(high, tf.float32)
    return tf.clip_by_value(low + unit * (high - low), low, high)
