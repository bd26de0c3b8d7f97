"""Turns a function that draws episodes into a `tf.data.Dataset`."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_meta.checks import check_at_least
from keras_meta.checks import check_int64
from keras_meta.checks import check_positive


def episode_dataset(
    draw: Callable[[tf.Tensor], Any],
    *,
    tasks: int,
    start: int = 0,
    num_batches: int | None = None,
    together: int = 1,
) -> tf.data.Dataset:
    """Returns a data set of batches of episodes.

    Args:
        draw: Pure function from the index of the first episode of a batch, an
            int64 scalar, to the batch.
        tasks: Number of episodes in a batch.
        start: Index of the first episode. To resume a run that stopped after
            `n` batches, pass `start=n * tasks`.
        num_batches: Number of batches, or None for an endless data set.
        together: Number of batches that `draw` returns at once, concatenated
            along the first axis. Drawing small batches together is faster.

    Returns:
        A `tf.data.Dataset` of batches. Its iterator can be saved with
        `tf.train.Checkpoint`; the checkpoint holds the position, not the
        data.

    Raises:
        ValueError: If `tasks` or `num_batches` is not positive or `start` is
            negative.
    """
    check_positive(tasks=tasks)
    if num_batches is not None:
        check_positive(num_batches=num_batches)
    check_at_least(0, start=start)
    check_int64(start=start)
    draws = tf.data.Dataset.counter()
    if num_batches is not None:
        draws = tf.data.Dataset.range(-(-num_batches // together))
    options = tf.data.Options()
    options.deterministic = True
    options.experimental_symbolic_checkpoint = True
    # There are no files to shard by, so workers divide the episodes.
    options.experimental_distribute.auto_shard_policy = (
        tf.data.experimental.AutoShardPolicy.DATA
    )
    batches = draws.map(
        lambda i: draw(start + i * tasks * together),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    if together > 1:
        batches = _cut(batches, tasks, together, num_batches)
    return batches.prefetch(tf.data.AUTOTUNE).with_options(options)


def look_up(items: tf.Tensor, positions: tf.Tensor, dtype: str) -> tf.Tensor:
    """Gathers items, as a model takes them.

    Args:
        items: All items, `[items, ...]`.
        positions: Which of them, of any shape.
        dtype: Name of the type: `"float32"`, in which images of type uint8
            range from 0 to 1, or the items' own.
    """
    found = tf.gather(items, positions)
    if found.dtype.name == dtype:
        return found
    if found.dtype == tf.uint8:
        return tf.cast(found, tf.float32) * (1 / 255)
    return tf.cast(found, tf.float32)


def as_episodes(
    x: tf.Tensor, y: tf.Tensor, shots: int
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Divides the examples of tasks into support and query sets.

    Args:
        x: Inputs, `[tasks, examples, ...]`.
        y: Their labels, `[tasks, examples, ...]`.
        shots: How many examples, the first ones, are the support set.

    Returns:
        What `model.fit` takes, `(x, query_y)`.
    """
    inputs = {
        "support_x": x[:, :shots],
        "support_y": y[:, :shots],
        "query_x": x[:, shots:],
    }
    return inputs, y[:, shots:]


def _cut(
    draws: tf.data.Dataset, tasks: int, together: int, num_batches: int | None
) -> tf.data.Dataset:
    """Splits episodes that were drawn together into batches."""

    def cut(drawn):
        return tf.nest.map_structure(
            lambda x: tf.reshape(x, [together, tasks, *x.shape[1:]]), drawn
        )

    batches = draws.map(lambda *drawn: cut(drawn)).unbatch()
    if num_batches is None:
        count = tf.data.INFINITE_CARDINALITY
    else:
        count = num_batches
        batches = batches.take(num_batches)
    return batches.apply(tf.data.experimental.assert_cardinality(count))
