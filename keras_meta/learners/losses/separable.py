"""Whether each task's part of a step can be computed alone."""

from __future__ import annotations

from typing import Any

import keras

from keras_meta.batching.annotations import keras_mask
from keras_meta.execution import task_blocks


def require_separable(predictions: Any, learner: keras.Model) -> None:
    """Refuses what the predictions of each task alone do not determine.

    Losses that layers add may be sums over tasks, and a mask changes what a
    mean divides by.

    Args:
        predictions: Nested predictions for the query sets.
        learner: The learner, after its call.

    Raises:
        task_blocks.Inseparable: If tasks depend on each other.
    """
    if any(keras_mask(y) is not None for y in keras.tree.flatten(predictions)):
        raise task_blocks.Inseparable("predictions have a mask")
    variables = learner.trainable_variables
    regularized = [v for v in variables if v.regularizer is not None]
    if len(learner.losses) > len(regularized):
        raise task_blocks.Inseparable("layers add losses")
