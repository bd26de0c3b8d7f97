"""Policies that adapt to tasks by acting in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.inner.adapting import AdaptingProblem
from keras_meta.inner.problem import Derivatives
from keras_meta.reinforcement.advantages import Advantages
from keras_meta.reinforcement.advantages import Outcomes
from keras_meta.reinforcement.distribution import Distribution
from keras_meta.reinforcement.environment import Environment
from keras_meta.reinforcement.likelihood_ratio import LikelihoodRatio
from keras_meta.reinforcement.policy_objective import PolicyObjective
from keras_meta.reinforcement.policy_objective import mean_of_sums
from keras_meta.reinforcement.rollouts import Rollouts
from keras_meta.reinforcement.rollouts import roll_out
from keras_meta.seeds import fold_in


class PolicyTasks(NamedTuple):
    """Tasks of an environment.

    Attributes:
        tasks: What tells them apart, `[tasks, ...]`.
        seed: Seed of all that is drawn for them, `[2]`.
    """

    tasks: tf.Tensor
    seed: tf.Tensor


class Acted(NamedTuple):
    """What rollouts say about the weights that drew them.

    Attributes:
        rollouts: The rollouts.
        log_probs: Logarithms of the probabilities of their actions, as a
            function of the weights, `[tasks, rollouts, time]`.
        outcomes: What became of the actions.
    """

    rollouts: Rollouts
    log_probs: tf.Tensor
    outcomes: Outcomes

    @property
    def returns(self) -> tf.Tensor:
        """Mean returns, `[tasks]`."""
        return tf.reduce_mean(self.rollouts.returns, axis=-1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyProblem(AdaptingProblem):
    """Tasks of an environment; its data are `PolicyTasks`.

    A step draws rollouts from the policy where it is, and descends the
    objective on them. Its state is the mean returns of the rollouts of the
    last step, `[tasks]`.

    Attributes:
        environment: The environment.
        distribution: How the outputs of the policy say which actions are
            likely.
        objective: What a step descends.
        advantages: How advantages are estimated.
        rollouts: Rollouts of each task for a step.
    """

    environment: Environment
    distribution: Distribution
    objective: PolicyObjective
    advantages: Advantages
    rollouts: int

    @property
    def layers(self) -> Sequence[keras.Layer]:
        """All layers of the policy."""
        return self.task_batched.layers

    def start(self, theta, data):
        """Begins at the learned weights; see `InnerProblem.start`."""
        tasks = task_axis.size(data.tasks, 0)
        params = self.learned_start(theta, tasks)
        return params, [tf.zeros([tasks], params[0].dtype)]

    def loss(
        self,
        theta,
        data,
        params,
        state,
        step,
        derivatives=Derivatives.NONE,
    ):
        """Returns the objective on new rollouts; see `InnerProblem.loss`."""
        acted = self.act(theta, data, params, step, derivatives)
        losses = self.objective.losses(acted.log_probs, acted.outcomes)
        return losses, [acted.returns]

    def act(
        self,
        theta: Sequence[tf.Tensor],
        data: PolicyTasks,
        params: Sequence[tf.Tensor],
        step: int | tf.Tensor,
        derivatives: Derivatives = Derivatives.NONE,
    ) -> Acted:
        """Draws rollouts from the policy.

        Args:
            theta: Values of the meta-parameters.
            data: The tasks.
            params: The weights of the policy, `[tasks, *shape]` each.
            step: Number of the step; each draws rollouts of its own.
            derivatives: Which derivatives of the result are taken.
        """
        seed = fold_in(data.seed, step)
        rollouts = self._roll_out(theta, data.tasks, params, seed)
        seen = rollouts.observations
        lead = tf.shape(rollouts.rewards)
        outputs = self._outputs(
            theta,
            params,
            tf.reshape(seen, [lead[0], lead[1] * lead[2], *seen.shape[3:]]),
            second_order=derivatives is Derivatives.SECOND,
        )
        outputs = tf.reshape(outputs, tf.concat([lead, [outputs.shape[-1]]], 0))
        log_probs = self.distribution.log_prob(outputs, rollouts.actions)
        return Acted(rollouts, log_probs, self.advantages.estimate(rollouts))

    def outer_losses(self, acted: Acted) -> tf.Tensor:
        """Returns minus the discounted returns, `[tasks]`.

        Their first derivative is that of the expected returns, with the
        advantages as they are estimated.

        Args:
            acted: Rollouts of the adapted policies.
        """
        surrogate = LikelihoodRatio().losses(acted.log_probs, acted.outcomes)
        return self.discounted_losses(acted) + (
            surrogate - tf.stop_gradient(surrogate)
        )

    def discounted_losses(self, acted: Acted) -> tf.Tensor:
        """Returns minus the discounted returns, without a derivative.

        Args:
            acted: Rollouts.
        """
        rewards = acted.rollouts.rewards
        return -mean_of_sums(acted.outcomes.weights * rewards)

    def _roll_out(
        self,
        theta: Sequence[tf.Tensor],
        tasks: tf.Tensor,
        params: Sequence[tf.Tensor],
        seed: tf.Tensor,
    ) -> Rollouts:
        theta = list(map(tf.stop_gradient, theta))
        params = list(map(tf.stop_gradient, params))

        def act(observations, seed):
            outputs = self._outputs(theta, params, observations)
            return self.distribution.sample(outputs, seed)

        rollouts = roll_out(
            self.environment, act, tasks, self.rollouts, seed, xla=self.xla
        )
        return Rollouts(*map(tf.stop_gradient, rollouts))

    def _outputs(
        self,
        theta: Sequence[tf.Tensor],
        params: Sequence[tf.Tensor],
        observations: tf.Tensor,
        second_order: bool = False,
    ) -> tf.Tensor:
        """Returns the policy's outputs, `[tasks, n, outputs]`.

        Args:
            theta: Values of the meta-parameters.
            params: The weights of the policy.
            observations: `[tasks, n, ...]`.
            second_order: Whether a second derivative will be taken.
        """
        return self.call_model(
            theta,
            observations,
            params,
            self.task_batched.initial_state(),
            training=False,
            statistics="running",
            second_order=second_order,
        ).outputs
