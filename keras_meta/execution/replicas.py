"""What replicas of a distribution strategy tell each other."""

from __future__ import annotations

import tensorflow as tf


def is_one_of_several() -> bool:
    """Whether the call is one of a step that several replicas take.

    In the scope of a strategy, outside of its replicas, it is not.
    """
    if tf.distribute.in_cross_replica_context():
        return False
    return tf.distribute.get_strategy().num_replicas_in_sync > 1


def place_in_batch(
    tasks: int | tf.Tensor,
) -> tuple[int | tf.Tensor, int | tf.Tensor]:
    """Returns where a replica's tasks are in the whole batch.

    Args:
        tasks: Number of tasks of this replica.

    Returns:
        How many tasks come before them, and how many there are in all.
    """
    if not is_one_of_several():
        return 0, tasks
    context = tf.distribute.get_replica_context()
    sizes = context.all_gather(tf.reshape(tasks, [1]), axis=0)
    number = context.replica_id_in_sync_group
    return tf.reduce_sum(sizes[:number]), tf.reduce_sum(sizes)


def number() -> int | tf.Tensor:
    """Returns this replica's number, from 0."""
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
