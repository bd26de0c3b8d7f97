"""Finds what contains NaN or infinity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.learners.tasks.tensors import as_nested_tensors


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


def tasks_not_finite(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns whether each task has a value that is not finite, `[tasks]`.

    Args:
        tensors: `[tasks, ...]` each.
    """

    def is_bad(x):
        finite = tf.math.is_finite(x)
        return tf.reduce_any(
            tf.logical_not(finite), list(range(1, x.shape.rank))
        )

    return tf.reduce_any(tf.stack([is_bad(x) for x in tensors]), axis=0)


def can_learn_from(
    loss: tf.Tensor,
    gradients: Sequence[tf.Tensor | None],
    optimizer: keras.optimizers.Optimizer,
) -> tf.Tensor:
    """Returns whether a loss and the norms of its gradients are finite.

    Norms matter because Adam and clipping square the gradients: a finite
    gradient with an infinite square would become NaN.

    Args:
        loss: A scalar.
        gradients: Its gradients. An entry may be `None`.
        optimizer: The optimizer that applies the gradients. A loss-scaling
            optimizer searches for a scale at which gradients are finite, so
            theirs are not checked.

    Returns:
        A boolean scalar.
    """
    needed = [loss]
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        known = [g for g in gradients if g is not None]
        needed += [tf.reduce_sum(tf.square(g)) for g in known]
    return tf.reduce_all([tf.math.is_finite(x) for x in needed])


def _is_not_finite(values: tf.Tensor, task: int) -> bool:
    if not values.dtype.is_floating:
        return False
    return not bool(tf.reduce_all(tf.math.is_finite(values[task])))
