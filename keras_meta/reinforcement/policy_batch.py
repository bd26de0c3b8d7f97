"""The outer loss of a batch of an environment's tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.inner.inner_loop import InnerLoop
from keras_meta.inner.penalties import penalty
from keras_meta.inner.solver import Carry
from keras_meta.inner.solver import Solver
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.meta_gradients.objective import Adaptation
from keras_meta.reinforcement.policy_problem import Acted
from keras_meta.reinforcement.policy_problem import PolicyProblem
from keras_meta.reinforcement.policy_problem import PolicyTasks
from keras_meta.seeds import fold_in


def record_returns(
    theta: Sequence[tf.Tensor],
    data: PolicyTasks,
    step: int | tf.Tensor,
    carry: Carry,
    losses: tf.Tensor,
) -> tuple[Carry, tuple[tf.Tensor, tf.Tensor]]:
    """Records losses and mean returns before a step; see `Record`."""
    return carry, (tf.stop_gradient(losses), carry.state[0])


@dataclasses.dataclass(frozen=True)
class PolicyBatch:
    """What a meta-gradient is estimated from, see `MetaObjective`.

    Predictions are mean returns after each number of inner steps, `[tasks,
    steps + 1]`.

    Attributes:
        variables: The meta-parameters.
        solver: The inner loop.
        problem: What it optimizes.
        problem_of_each: The same for tasks with meta-parameters of their own.
        meta_gradient: How the gradient comes back.
        data: The tasks.
        steps: Number of inner steps.
        scale: Returns a value times the optimizer's loss scale.
    """

    variables: Sequence[keras.Variable]
    solver: Solver
    problem: PolicyProblem
    problem_of_each: Callable[[], PolicyProblem]
    meta_gradient: MetaGradient
    data: PolicyTasks
    steps: int
    scale: Callable[[tf.Tensor], tf.Tensor]

    @property
    def replicas(self) -> int:
        """Number of devices, one."""
        return 1

    @property
    def tasks(self) -> int | tf.Tensor:
        """Number of tasks."""
        return task_axis.size(self.data.tasks, 0)

    def adapt(self) -> Adaptation:
        """Runs the inner loop; see `MetaObjective.adapt`."""
        return self._adapted(InnerLoop.run)

    def outer_loss(
        self, adaptation: Adaptation | None = None
    ) -> tuple[tf.Tensor, Any]:
        """Returns minus the mean return; see `MetaObjective.outer_loss`."""
        if adaptation is None:
            adaptation = self._adapted(self.meta_gradient.solve)
        acted = self.act(adaptation.end)
        losses = self.problem.outer_losses(acted)
        loss = tf.reduce_mean(losses) + self.penalty()
        return loss, returns_of(adaptation, acted)

    def task_losses(self, theta: Sequence[tf.Tensor], copies: int) -> tf.Tensor:
        """Returns losses of copies; see `MetaObjective.task_losses`.

        Copies draw the same random numbers, so that they differ by their
        meta-parameters alone.
        """
        problem = self.problem_of_each()
        dtype = theta[0].dtype

        @tf.autograph.experimental.do_not_convert
        def losses_of_copy(theta):
            end, _ = self._loop(problem, theta).run()
            end = self.solver.finish(problem, theta, end)
            acted = problem.act(theta, self.data, end.params, self.steps)
            return problem.discounted_losses(acted)

        losses = tf.map_fn(
            losses_of_copy,
            [task_axis.split(value, copies) for value in theta],
            fn_output_signature=tf.TensorSpec([None], dtype),
        )
        return tf.reshape(losses, [-1])

    def penalty(self) -> tf.Tensor:
        """Returns what regularizers add; see `MetaObjective.penalty`."""
        return penalty(self.variables)

    def seed(self, number: int) -> tf.Tensor:
        """Returns a seed of the meta-step; see `MetaObjective.seed`."""
        return fold_in(self.data.seed, number)

    def scaled(self, value: tf.Tensor) -> tf.Tensor:
        """Returns a value times the optimizer's loss scale."""
        return self.scale(value)

    def act(self, end: Carry) -> Acted:
        """Draws rollouts from the adapted policies.

        Args:
            end: The carry after the last step.
        """
        return self.problem.act(
            self._theta(), self.data, end.params, self.steps
        )

    def _theta(self) -> list[tf.Tensor]:
        return [tf.convert_to_tensor(v.value) for v in self.variables]

    def _adapted(self, run: Callable) -> Adaptation:
        problem = self.problem
        loop = self._loop(problem, self._theta())
        end, recorded = run(loop)
        end = self.solver.finish(problem, loop.theta, end)
        gradient = self.solver.gradient_function(
            problem, self.data, end, self.steps
        )
        adapted = problem.task_batched.adapted
        return Adaptation(adapted, loop.carry, end, recorded, gradient)

    def _loop(
        self, problem: PolicyProblem, theta: Sequence[tf.Tensor]
    ) -> InnerLoop:
        return InnerLoop(
            self.solver,
            problem,
            theta,
            self.data,
            self.solver.init(problem, theta, self.data),
            self.steps,
            record=record_returns,
        )


def returns_of(adaptation: Adaptation, acted: Acted) -> tf.Tensor:
    """Returns mean returns after each number of steps, `[tasks, steps + 1]`.

    Args:
        adaptation: The adapted tasks.
        acted: Rollouts after the last step.
    """
    last = acted.returns[tf.newaxis]
    if adaptation.recorded is None:
        return tf.transpose(last)
    return tf.transpose(tf.concat([adaptation.recorded[1], last], axis=0))
