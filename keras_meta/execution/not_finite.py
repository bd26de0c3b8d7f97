"""Finds the arguments that contain NaN or infinity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.learners.tensors import as_nested_tensors


def arguments_not_finite(
    inputs: dict[str, Any], names: Sequence[str], task: int
) -> list[str]:
    """Returns the names of arguments that are not finite in a task.

    Args:
        inputs: Nested arrays, `[tasks, ...]` each, by argument name.
        names: Names of the arguments to check.
        task: Index of the task to check.
    """
    return [
        name
        for name in names
        if inputs.get(name) is not None
        and any(
            _is_not_finite(leaf, task)
            for leaf in keras.tree.flatten(
                as_nested_tensors(name, inputs[name])
            )
        )
    ]


def _is_not_finite(values: tf.Tensor, task: int) -> bool:
    if not values.dtype.is_floating:
        return False
    return not bool(tf.reduce_all(tf.math.is_finite(values[task])))
