"""What a learner records of the steps of its inner loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching.annotations import attach
from keras_meta.batching.annotations import detach
from keras_meta.batching.annotations import map_annotated
from keras_meta.inner.few_shot import FewShotProblem
from keras_meta.inner.solver import Carry
from keras_meta.inner.solver import Solver
from keras_meta.inner.solver import losses_only


def record_losses(
    theta: Sequence[tf.Tensor],
    data: dict[str, Any],
    step: int | tf.Tensor,
    carry: Carry,
    losses: tf.Tensor,
) -> tuple[Carry, tuple[tf.Tensor]]:
    """Records the losses before a step; see `Record`."""
    carry, losses = losses_only(theta, data, step, carry, losses)
    return carry, (losses,)


def record_predictions(
    solver: Solver,
    problem: FewShotProblem,
    theta: Sequence[tf.Tensor],
    data: dict[str, Any],
    step: int | tf.Tensor,
    carry: Carry,
    losses: tf.Tensor,
) -> tuple[Carry, tuple[Any, ...]]:
    """Records the losses before a step and predictions after it.

    Bind `solver` and `problem` for a `Record`. Predicting may change the
    state, such as moving averages, which goes on to the next step.
    """
    result = solver.finish(problem, theta, carry)
    predicted = problem.predict(theta, data, result.params, result.state)
    _, recorded = record_losses(theta, data, step, carry, losses)
    carry = carry._replace(state=predicted.state)
    return carry, (*recorded, detach(predicted.outputs))


def with_start(first: Any, recorded: Any) -> Any:
    """Returns recorded predictions with those before the first step.

    Args:
        first: Nested predictions before the first step, `[tasks, q, ...]`.
        recorded: Predictions after each step as they were recorded,
            `[steps, tasks, q, ...]`, or `None` without steps.

    Returns:
        Predictions, `[steps + 1, tasks, q, ...]`.
    """
    first = keras.tree.map_structure(_with_first_axis, first)
    if recorded is None:
        return first
    predictions, notes = keras.tree.map_structure(
        lambda y, ys: tf.concat([y, ys], axis=0), detach(first), recorded
    )
    return attach(predictions, notes)


def swap_first_axes(predictions: Any) -> Any:
    """Swaps the axes of steps and of tasks.

    Args:
        predictions: Nested predictions, `[steps, tasks, ...]` or
            `[tasks, steps, ...]`.
    """
    return keras.tree.map_structure(_swap_first_axes, predictions)


def _with_first_axis(x: tf.Tensor) -> tf.Tensor:
    return map_annotated(lambda y: y[tf.newaxis], x)


def _swap_first_axes(x: tf.Tensor) -> tf.Tensor:
    return map_annotated(
        lambda y: tf.transpose(y, [1, 0, *range(2, y.shape.rank)]), x
    )
