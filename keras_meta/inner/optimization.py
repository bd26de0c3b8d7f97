"""Families of optimization problems, as inner loops optimize them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import tensorflow as tf

from keras_meta.inner.inner_loop import InnerLoop
from keras_meta.inner.problem import Derivatives
from keras_meta.inner.problem import InnerProblem
from keras_meta.inner.solver import Carry
from keras_meta.inner.solver import Solver
from keras_meta.problems.problem import Problem


class Instances(NamedTuple):
    """Drawn instances of a problem.

    Attributes:
        params: The first parameters, `[instances, *shape]` each.
        data: What `Problem.losses` needs, nested tensors.
    """

    params: list[tf.Tensor]
    data: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizationProblem(InnerProblem):
    """Instances of a family of problems; its data are `Instances`.

    Attributes:
        problem: The family.
    """

    problem: Problem
    theta_in_loss: bool = False

    def start(self, theta, data):
        """Begins at the drawn parameters; see `InnerProblem.start`."""
        return list(data.params), []

    def loss(
        self,
        theta,
        data,
        params,
        state,
        step,
        derivatives=Derivatives.NONE,
    ):
        """Returns the losses of all instances; see `InnerProblem.loss`."""
        losses = self.problem.losses(
            params,
            data.data,
            step,
            second_order=derivatives is Derivatives.SECOND,
            xla=self.xla,
        )
        return losses, state


def run_with_losses(
    run: Callable[[InnerLoop], tuple[Carry, tf.Tensor]],
    solver: Solver,
    problem: OptimizationProblem,
    theta: Sequence[tf.Tensor],
    data: Instances,
    carry: Carry,
    first: int | tf.Tensor,
    steps: int,
) -> tuple[Carry, tf.Tensor]:
    """Takes steps, and returns the losses on the way.

    Args:
        run: Takes the steps: `InnerLoop.run`, or the `solve` of a
            meta-gradient.
        solver: The inner loop.
        problem: What it optimizes.
        theta: Values of the meta-parameters.
        data: The instances.
        carry: The carry before the first step.
        first: Number of the first step.
        steps: How many.

    Returns:
        The carry after the last step, and the losses before each step and
        after the last, `[steps + 1, instances]`. Where a rule takes
        gradients elsewhere than at its result, they are those of the result.
    """

    def loss_of_result(theta, data, carry, step):
        result = solver.finish(problem, theta, carry)
        losses, _ = problem.loss(theta, data, result.params, result.state, step)
        return losses[tf.newaxis]

    def before(theta, data, step, carry, losses):
        return carry, losses

    def after(theta, data, step, carry, losses):
        return carry, loss_of_result(theta, data, carry, step + 1)[0]

    record = after if solver.rule.attends else before
    end, losses = run(
        InnerLoop(solver, problem, theta, data, carry, steps, first, record)
    )
    if solver.rule.attends:
        edge = loss_of_result(theta, data, carry, first)
        return end, tf.concat([edge, losses], axis=0)
    edge = loss_of_result(theta, data, end, first + steps)
    return end, tf.concat([losses, edge], axis=0)
