"""Batches of problem instances for `fit`."""

from __future__ import annotations

import tensorflow as tf

from keras_meta.checks import check_at_least
from keras_meta.checks import check_int64
from keras_meta.checks import check_positive


def batches(
    instances: int = 1,
    *,
    seed: int = 0,
    start: int = 0,
    num_batches: int | None = None,
) -> tf.data.Dataset:
    """Returns the seeds and indices of consecutive problem instances.

    The instances themselves are drawn where they are used, from the seed and
    the index alone. Different seeds or indices give different instances: use
    one seed for training and another for validation.

    Args:
        instances: Number of instances in a batch.
        seed: Seed of the instances.
        start: Index of the first instance.
        num_batches: Number of batches, or `None` for an endless data set.

    Returns:
        A `tf.data.Dataset` of `{"seed": [instances], "index": [instances]}`,
        int64.

    Raises:
        ValueError: If an argument is not an integer, or out of range.

    Example:
    >>> first = next(iter(batches(3, seed=7)))
    >>> first["index"].numpy().tolist()
    [0, 1, 2]
    """
    check_positive(instances=instances)
    if num_batches is not None:
        check_positive(num_batches=num_batches)
    check_at_least(0, seed=seed, start=start)
    check_int64(seed=seed, start=start)
    counter = tf.data.Dataset.counter(start, instances)
    if num_batches is not None:
        counter = counter.take(num_batches)
    return counter.map(
        lambda first: {
            "seed": tf.fill([instances], tf.constant(seed, tf.int64)),
            "index": first + tf.range(instances, dtype=tf.int64),
        }
    )
