"""The queries of all tasks as one batch, as losses and metrics see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.batching.annotations import at_least_float32
from keras_meta.batching.annotations import merge_tasks


def as_examples(y: Any, y_pred: Any, sample_weight: Any) -> tuple:
    """Merges tasks into the batch, for Keras's losses and metrics.

    These are defined for a batch of examples, `[n, classes]` for instance,
    and some refuse or misread another axis in front of it.

    Args:
        y: Labels, nested, `[tasks, q, ...]` each, or `None`s.
        y_pred: Predictions, nested, `[tasks, q, ...]` each.
        sample_weight: `None` or weights, nested, `[tasks, q, ...]` each. A
            size of 1 in place of `q` stands for all queries of a task.

    Returns:
        The three, `[tasks * q, ...]` each, with what Keras remembers of
        predictions, in float32 at least.
    """
    predictions = keras.tree.map_structure(
        lambda x: merge_tasks(at_least_float32(x)), y_pred
    )
    queries = task_axis.size(keras.tree.flatten(y_pred)[0], 1)

    def merge_weight(weight):
        sizes = [task_axis.size(weight, i) for i in range(weight.shape.rank)]
        sizes[1] = queries
        return task_axis.merge(tf.broadcast_to(weight, sizes))

    return (
        _map(task_axis.merge, y),
        predictions,
        _map(merge_weight, sample_weight),
    )


def _map(function: Callable[[tf.Tensor], Any], values: Any) -> Any:
    """Applies a function to nested tensors that may be missing."""
    return keras.tree.map_structure(
        lambda x: None if x is None else function(tf.convert_to_tensor(x)),
        values,
    )
