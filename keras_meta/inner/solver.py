"""The inner loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple
from typing import Protocol

import tensorflow as tf

from keras_meta.inner.checkpoint import checkpointed_unroll
from keras_meta.inner.problem import Derivatives
from keras_meta.inner.problem import InnerProblem
from keras_meta.kernels.second_order import differentiate
from keras_meta.update_rules.update_rule import UpdateRule


class Carry(NamedTuple):
    """What an inner loop carries from step to step.

    Attributes:
        params: The parameters, `[tasks, *shape]` each.
        rule_state: State of the update rule.
        state: State of the problem.
    """

    params: list[tf.Tensor]
    rule_state: Any
    state: list[tf.Tensor]


# A function of the meta-parameters and of parameters `[tasks, *shape]`. It
# returns gradients of their shapes.
InnerGradient = Callable[
    [Sequence[tf.Tensor], Sequence[tf.Tensor]], list[tf.Tensor]
]


class Record(Protocol):
    """What is returned of the steps of a run."""

    def __call__(
        self,
        theta: Sequence[tf.Tensor],
        data: Any,
        step: int | tf.Tensor,
        carry: Carry,
        losses: tf.Tensor,
    ) -> tuple[Carry, Any]:
        """Looks at a step.

        Args:
            theta: Values of the meta-parameters.
            data: What belongs to the tasks.
            step: Number of the step.
            carry: The carry after the step.
            losses: The losses before it, `[tasks]`.

        Returns:
            The carry that goes on, and what to record, nested tensors.
        """


def losses_only(
    theta: Sequence[tf.Tensor],
    data: Any,
    step: int | tf.Tensor,
    carry: Carry,
    losses: tf.Tensor,
) -> tuple[Carry, tf.Tensor]:
    """Records the losses, which cannot be differentiated; see `Record`.

    A loop would backpropagate zeros through losses that are only looked at.
    """
    return carry, tf.stop_gradient(losses)


@dataclasses.dataclass(frozen=True)
class Solver:
    """Optimizes tasks with an update rule, as pure functions of a `Carry`.

    It does not know how a meta-gradient comes back. A `MetaGradient` says
    which derivatives are taken and how long the segments are that are
    computed twice.

    Attributes:
        rule: The update rule.
    """

    rule: UpdateRule

    def init(
        self, problem: InnerProblem, theta: Sequence[tf.Tensor], data: Any
    ) -> Carry:
        """Returns the carry before the first step."""
        params, state = problem.start(theta, data)
        return Carry(params, self.init_rule(problem, theta, params), state)

    def init_rule(
        self,
        problem: InnerProblem,
        theta: Sequence[tf.Tensor],
        params: Sequence[tf.Tensor],
    ) -> Any:
        """Returns the update rule's state before the first step."""
        return self._call_rule(problem, theta, self.rule.init_state, params)

    def finish(
        self, problem: InnerProblem, theta: Sequence[tf.Tensor], carry: Carry
    ) -> Carry:
        """Returns the result of a run, see `UpdateRule.final`."""
        params, rule_state = self._call_rule(
            problem, theta, self.rule.final, carry.params, carry.rule_state
        )
        return carry._replace(params=list(params), rule_state=rule_state)

    def gradients(
        self,
        problem: InnerProblem,
        theta: Sequence[tf.Tensor],
        data: Any,
        carry: Carry,
        step: int | tf.Tensor,
        derivatives: Derivatives = Derivatives.NONE,
    ) -> tuple[list[tf.Tensor], tf.Tensor, list[tf.Tensor]]:
        """Returns the gradients of the loss at one point.

        Args:
            problem: What is optimized.
            theta: Values of the meta-parameters.
            data: What belongs to the tasks.
            carry: The point, and the problem's state there.
            step: Number of the step.
            derivatives: Which derivatives of the result are taken.

        Returns:
            The gradients, `[tasks, *shape]` each, the losses, `[tasks]`, and
            the state after them.
        """

        def losses_and_state():
            losses, state = problem.loss(
                theta, data, carry.params, carry.state, step, derivatives
            )
            return losses, (losses, state)

        gradients, (losses, state) = differentiate(
            losses_and_state,
            carry.params,
            again=derivatives is Derivatives.SECOND,
            required=True,
            layers=problem.layers,
        )
        if derivatives is Derivatives.FIRST:
            gradients = [tf.stop_gradient(g) for g in gradients]
            if not problem.theta_in_loss:
                losses = _with_gradients(losses, carry.params, gradients)
        return gradients, losses, state

    def gradient_function(
        self,
        problem: InnerProblem,
        data: Any,
        carry: Carry,
        step: int | tf.Tensor,
    ) -> InnerGradient:
        """Returns the gradient of the loss, as a differentiable function.

        Args:
            problem: What is optimized.
            data: What belongs to the tasks.
            carry: Holds the problem's state. Its parameters are not used.
            step: Number of the step.
        """

        def gradient(theta, params):
            gradients, _, _ = self.gradients(
                problem,
                theta,
                data,
                carry._replace(params=params),
                step,
                Derivatives.SECOND,
            )
            return gradients

        return gradient

    def step(
        self,
        problem: InnerProblem,
        theta: Sequence[tf.Tensor],
        data: Any,
        carry: Carry,
        step: int | tf.Tensor,
        derivatives: Derivatives = Derivatives.NONE,
    ) -> tuple[Carry, tf.Tensor]:
        """Takes one step, see `gradients`.

        Returns:
            The carry after the step, and the losses before it, `[tasks]`.
        """
        gradients, losses, state = self.gradients(
            problem, theta, data, carry, step, derivatives
        )
        seen = losses
        if derivatives is Derivatives.FIRST:
            seen = tf.stop_gradient(losses)
        params, rule_state = self._call_rule(
            problem,
            theta,
            self._observe_and_update,
            carry.params,
            gradients,
            seen,
            carry.rule_state,
        )
        return Carry(params, rule_state, state), losses

    def run(
        self,
        problem: InnerProblem,
        theta: Sequence[tf.Tensor],
        data: Any,
        carry: Carry,
        steps: int,
        *,
        first: int | tf.Tensor = 0,
        derivatives: Derivatives = Derivatives.NONE,
        segment: int | None = None,
        record: Record = losses_only,
    ) -> tuple[Carry, Any]:
        """Takes steps.

        Args:
            problem: What is optimized.
            theta: Values of the meta-parameters.
            data: What belongs to the tasks.
            carry: The carry before the first step.
            steps: How many, at least 0.
            first: Number of the first step.
            derivatives: Which derivatives of the result are taken.
            segment: Steps of a segment that is computed twice to save
                memory, or `None` to keep all that the gradient needs.
            record: Says what to return of each step.

        Returns:
            The carry after the last step, and what was recorded, stacked
            along a new first axis of size `steps` (`None` without steps).
        """
        # The gradient of a segment is sure to reach only what it is given.
        if segment is None and steps > 1:
            problem = problem.prepared(
                theta, data, carry.params, carry.state, derivatives
            )

        def take(number, carry, constants):
            theta, data = constants
            step = first + number
            carry, losses = self.step(
                problem, theta, data, carry, step, derivatives
            )
            return record(theta, data, step, carry, losses)

        return checkpointed_unroll(
            take,
            carry,
            (list(theta), data),
            steps,
            segment,
            lay_out=derivatives is Derivatives.SECOND,
            xla=problem.xla,
        )

    def _observe_and_update(self, params, gradients, losses, rule_state):
        rule_state = self.rule.observe(rule_state, losses)
        return self.rule.update(params, gradients, rule_state)

    def _call_rule(self, problem, theta, function, *arguments):
        """Calls a function of the rule, whose weights are in `theta`."""

        def call(theta, *arguments):
            with problem.scope(theta):
                return function(*arguments)

        if problem.theta_per_task and self.rule.trainable_variables:
            return tf.vectorized_map(
                lambda task: call(*task), (list(theta), *arguments)
            )
        if problem.theta_per_task:
            return function(*arguments)
        return call(theta, *arguments)


def _with_gradients(
    losses: tf.Tensor,
    params: Sequence[tf.Tensor],
    gradients: Sequence[tf.Tensor],
) -> tf.Tensor:
    """Returns losses whose gradients are known, to compute them only once.

    Args:
        losses: `[tasks]`.
        params: `[tasks, *shape]` each.
        gradients: Of each task's loss, of the shapes of `params`.
    """

    @tf.custom_gradient
    def function(*params):
        def gradient(upstream):
            return [
                tf.reshape(
                    tf.cast(upstream, g.dtype),
                    [-1, *[1] * (g.shape.rank - 1)],
                )
                * g
                for g in gradients
            ]

        return tf.stop_gradient(losses), gradient

    return function(*params)
