"""Communication between the replicas of a distribution strategy."""

from __future__ import annotations

import tensorflow as tf


def is_one_of_several() -> bool:
    """Whether this call runs in one of several replicas.

    False in the scope of a strategy, outside of its replicas.
    """
    if tf.distribute.in_cross_replica_context():
        return False
    return tf.distribute.get_strategy().num_replicas_in_sync > 1


def place_in_batch(
    tasks: int | tf.Tensor,
) -> tuple[int | tf.Tensor, int | tf.Tensor]:
    """Returns the position of this replica's tasks in the whole batch.

    Args:
        tasks: Number of tasks in this replica.

    Returns:
        The number of tasks before them, and the total number of tasks.
    """
    if not is_one_of_several():
        return 0, tasks
    context = tf.distribute.get_replica_context()
    sizes = context.all_gather(tf.reshape(tasks, [1]), axis=0)
    number = context.replica_id_in_sync_group
    return tf.reduce_sum(sizes[:number]), tf.reduce_sum(sizes)


def number() -> int | tf.Tensor:
    """Returns this replica's index, starting at 0."""
    if not is_one_of_several():
        return 0
    return tf.distribute.get_replica_context().replica_id_in_sync_group


def all_true(value: tf.Tensor) -> tf.Tensor:
    """Returns whether a boolean scalar is true on all replicas."""
    if not is_one_of_several():
        return value
    context = tf.distribute.get_replica_context()
    failed = tf.cast(tf.logical_not(value), tf.float32)
    total = context.all_reduce(tf.distribute.ReduceOp.SUM, failed)
    return tf.equal(total, 0.0)


def mean(value: tf.Tensor) -> tf.Tensor:
    """Returns the mean of a value over all replicas."""
    if not is_one_of_several():
        return value
    context = tf.distribute.get_replica_context()
    return context.all_reduce(tf.distribute.ReduceOp.MEAN, value)


def share(value: tf.Tensor) -> tf.Tensor:
    """Returns this replica's share of a loss whose gradients are summed.

    Keras scales compiled losses likewise.
    """
    number = tf.distribute.get_strategy().num_replicas_in_sync
    return value / tf.cast(number, value.dtype)
