"""Several samples of weights for each task, as tasks side by side."""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.batching.annotations import map_annotated
from keras_meta.batching.annotations import with_samples


def repeat(data: Any, samples: int) -> Any:
    """Repeats tasks for each sample, ordered as `[samples, tasks]`.

    Args:
        data: Nested tensors, `[tasks, ...]` each.
        samples: How many samples.

    Returns:
        Nested tensors, `[samples * tasks, ...]` each.
    """
    return keras.tree.map_structure(
        lambda x: task_axis.repeat(x, samples), data
    )


def sum_of_samples(x: tf.Tensor, samples: int, axis: int = 0) -> tf.Tensor:
    """Sums over the samples of each task.

    Args:
        x: Has an axis of `samples * tasks`.
        samples: How many samples.
        axis: Which axis that is.
    """
    return tf.add_n(tf.split(x, samples, axis=axis))


def behind_queries(y: tf.Tensor, samples: int) -> tf.Tensor:
    """Moves samples behind queries.

    Args:
        y: Predictions, `[samples * tasks, q, ...]`.
        samples: How many samples.

    Returns:
        Predictions, `[tasks, q, samples, ...]`.
    """
    return map_annotated(functools.partial(_behind, samples), y)


def as_queries(y: tf.Tensor) -> tf.Tensor:
    """Makes every sample a query of its own.

    Args:
        y: Predictions, `[tasks, q, samples, ...]`.

    Returns:
        Predictions, `[tasks, q * samples, ...]`.
    """
    return map_annotated(_merged, y)


def apart(y: tf.Tensor) -> list[tf.Tensor]:
    """Returns each sample's predictions, `[tasks, q, ...]`.

    Args:
        y: Predictions, `[tasks, q, samples, ...]`.
    """
    return [
        map_annotated(functools.partial(_take, i), y) for i in range(y.shape[2])
    ]


def mixture(y: tf.Tensor, loss: Any) -> tf.Tensor:
    """Returns what samples predict together, and remembers them.

    Args:
        y: Predictions, `[tasks, q, samples, ...]`.
        loss: The compiled loss, which says whether these are logits.

    Returns:
        The mean of the samples, `[tasks, q, ...]`. If they are logits, those
        of the mean probabilities.
    """
    # `keras_meta.batching.annotations.samples_of` gives metrics the samples.
    if not getattr(loss, "from_logits", False):
        return with_samples(tf.reduce_mean(y, axis=2), y)
    logs, others = _log_probabilities(y, loss)
    mean = tf.reduce_logsumexp(logs, axis=2)
    if others is not None:
        mean -= tf.reduce_logsumexp(others, axis=2)
    return with_samples(mean, y)


def _behind(samples: int, y: tf.Tensor) -> tf.Tensor:
    return tf.stack(tf.split(y, samples, axis=0), axis=2)


def _take(i: int, y: tf.Tensor) -> tf.Tensor:
    return y[:, :, i]


def _merged(y: tf.Tensor) -> tf.Tensor:
    sizes = [task_axis.size(y, i) for i in range(y.shape.rank)]
    return tf.reshape(y, [sizes[0], sizes[1] * sizes[2], *sizes[3:]])


def _log_probabilities(
    y: tf.Tensor, loss: Any
) -> tuple[tf.Tensor, tf.Tensor | None]:
    """Returns logarithms of probabilities, and those of the contrary.

    The latter are `None` for classes that exclude each other.
    """
    binary = keras.losses.BinaryCrossentropy
    if isinstance(loss, (binary, keras.losses.BinaryFocalCrossentropy)):
        return tf.math.log_sigmoid(y), tf.math.log_sigmoid(-y)
    return tf.nn.log_softmax(y), None
