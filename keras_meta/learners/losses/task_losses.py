"""The outer loss of each task alone, at meta-parameters of its own."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.batching.fallback import is_seed
from keras_meta.checks import describe
from keras_meta.inner.few_shot import FewShotProblem
from keras_meta.inner.inner_loss import InnerLoss
from keras_meta.inner.solver import Solver

_DIFFERENTIATE = "use a meta-gradient such as keras_meta.Unrolled()."


class Tasks(NamedTuple):
    """A batch of tasks and what their predictions are compared with.

    Attributes:
        data: The inputs of `Learner.call`.
        y: Labels of the query sets, `[tasks, q, ...]`.
        sample_weight: Weights of the query examples, `[tasks, q]`, or
            `None`.
    """

    data: dict[str, Any]
    y: Any
    sample_weight: tf.Tensor | None


def as_query_loss(loss: Any, loss_weights: Any = None) -> InnerLoss:
    """Returns the outer loss of each task alone, or raises.

    Args:
        loss: Whatever `compile` took as a loss.
        loss_weights: What `compile` took as their weights.
    """
    if loss is None or isinstance(loss, (dict, list, tuple)):
        raise ValueError(
            "Evolution strategies need one compiled loss for all outputs. "
            f"Received: loss={describe(loss)}. Compile a function of (y_true, "
            f"y_pred), or {_DIFFERENTIATE}"
        )
    if loss_weights is not None:
        raise ValueError(
            "Evolution strategies take the compiled loss as it is. Received: "
            f"loss_weights={describe(loss_weights)}. Put the weight into the "
            f"loss, or {_DIFFERENTIATE}"
        )
    query_loss = InnerLoss(loss, "query_y")
    if query_loss.sums_examples:
        raise ValueError(
            "Evolution strategies take the mean over tasks of their losses. "
            f"Received: {describe(query_loss.loss)} with reduction='sum'. Use "
            f"reduction='sum_over_batch_size', or {_DIFFERENTIATE}"
        )
    return query_loss


def task_losses(
    solver: Solver,
    problem: FewShotProblem,
    loss: InnerLoss,
    tasks: Tasks,
    theta: Sequence[tf.Tensor],
    copies: int,
    steps: int,
) -> tf.Tensor:
    """Adapts copies of tasks and returns the losses of their queries.

    Copies of a task see the same random numbers, such as masks of dropout, so
    that they differ by their meta-parameters alone. A model that draws random
    numbers therefore takes one copy after another.

    Args:
        solver: The inner loop.
        problem: What it optimizes, with `theta_per_task`.
        loss: The loss of the queries of a task.
        tasks: The tasks.
        theta: Values of the meta-parameters, `[copies * tasks, *shape]` each,
            ordered as `[copies, tasks]`.
        copies: How many times to take each task.
        steps: Number of inner steps.

    Returns:
        The losses, `[copies * tasks]`.
    """
    compute = functools.partial(_losses, solver, problem, loss, steps)
    if not any(map(is_seed, problem.task_batched.state_variables)):
        return compute(_repeat(tasks, copies), theta)
    dtype = keras.config.floatx()
    losses = tf.map_fn(
        lambda theta: tf.cast(compute(tasks, theta), dtype),
        [task_axis.split(value, copies) for value in theta],
        fn_output_signature=tf.TensorSpec([None], dtype),
    )
    return tf.reshape(losses, [-1])


def _losses(
    solver: Solver,
    problem: FewShotProblem,
    loss: InnerLoss,
    steps: int,
    tasks: Tasks,
    theta: Sequence[tf.Tensor],
) -> tf.Tensor:
    """Returns the losses of tasks, one row of `theta` each."""
    start = solver.init(problem, theta, tasks.data)
    end, _ = solver.run(problem, theta, tasks.data, start, steps)
    end = solver.finish(problem, theta, end)
    result = problem.predict(theta, tasks.data, end.params, end.state)
    if result.losses:
        raise ValueError(
            "Evolution strategies need the loss of each task alone, and "
            f"layers of the model add {len(result.losses)} of all tasks (by "
            "`add_loss` or an activity regularizer). Remove them, or "
            f"{_DIFFERENTIATE}"
        )
    queries = keras.tree.flatten(tasks.data["query_x"])[0].shape[1]
    for output in keras.tree.flatten(result.outputs):
        # A loss may compare labels with predictions by `==`, whose result has
        # no known shape if theirs have none.
        output.set_shape([None, queries, *output.shape[2:]])
    return loss(tasks.y, result.outputs, tasks.sample_weight)


def _repeat(tasks: Tasks, copies: int) -> Tasks:
    return keras.tree.map_structure(
        lambda x: None if x is None else task_axis.repeat(x, copies), tasks
    )
