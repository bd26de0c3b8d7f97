"""Policies that learn to learn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy.typing as npt
import tensorflow as tf

from keras_meta.batching.task_batched import TaskBatched
from keras_meta.checks import check_at_least
from keras_meta.checks import check_int64
from keras_meta.checks import check_positive
from keras_meta.inner.solver import Solver
from keras_meta.learners.adaptation.batched_over_all import BatchedOverAll
from keras_meta.learners.adaptation.cloning import clone_model
from keras_meta.learners.adaptation.selection import select_adapted
from keras_meta.learners.arguments import as_update_rule
from keras_meta.learners.arguments import check_model
from keras_meta.meta_gradients.get import as_meta_gradient
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.reinforcement.advantages import Advantages
from keras_meta.reinforcement.arguments import as_distribution
from keras_meta.reinforcement.arguments import as_policy_objective
from keras_meta.reinforcement.arguments import as_tasks
from keras_meta.reinforcement.arguments import check_settings
from keras_meta.reinforcement.distribution import Distribution
from keras_meta.reinforcement.environment import Environment
from keras_meta.reinforcement.policy_batch import PolicyBatch
from keras_meta.reinforcement.policy_batch import returns_of
from keras_meta.reinforcement.policy_objective import PolicyObjective
from keras_meta.reinforcement.policy_problem import PolicyProblem
from keras_meta.reinforcement.policy_problem import PolicyTasks
from keras_meta.reinforcement.policy_training import PolicyTraining
from keras_meta.reinforcement.rollouts import Rollouts
from keras_meta.seeds import fold_in
from keras_meta.update_rules.update_rule import UpdateRule

# Told apart by these, the numbers drawn in training and in evaluation differ.
_TRAINING_STREAM = 127
_EVALUATION_STREAM = 131
_DEFAULT_ADVANTAGES = Advantages()


@keras.saving.register_keras_serializable("keras_meta")
class PolicyLearner(PolicyTraining):
    """Learns a policy from which few policy gradient steps suffice (MAML).

    To adapt to a task, the policy acts in it, takes a step that descends
    `objective` on its own rollouts, acts again, and so on. A step of `fit`
    does so for a batch of tasks, draws rollouts from the adapted policies,
    and moves the initial policy so that their return grows. Here as in
    `keras_meta.MAML`, `meta_gradient` says how the gradient comes back
    through the inner steps, and `update_rule` how these are taken. It is a
    model of its own because a task has no examples: what it learns from is
    drawn within the inner loop, from the policy that has adapted so far.

    The meta-gradient aims at the return after the expected update. How well,
    the second derivative of `objective` decides; see
    `keras_meta.reinforcement.PolicyObjective`.

    `fit` and `evaluate` take data sets or arrays of tasks, `[tasks, ...]`,
    such as goals; `environment.batches` draws them. The logs hold the mean
    return before (`initial_return`) and after adaptation (`adapted_return`),
    and minus the discounted one after it (`loss`). `predict` returns the mean
    returns of each task after 0, 1, ... steps, `[tasks, steps + 1]`.

    It is saved, loaded and continued as any Keras model, with its environment.
    It runs on one device.

    Args:
        policy: A built Keras model from observations to what `distribution`
            takes. Layers are called as outside of training.
        environment: The environment.
        update_rule: An update rule, or a number for `GradientDescent` with
            that rate.
        steps: Steps of the inner loop in training.
        evaluation_steps: Steps of the inner loop outside of training;
            `steps` by default.
        rollouts: Rollouts of each task for each step, and for measuring the
            adapted policy.
        objective: What an inner step descends: a `PolicyObjective`, or
            `"score_function"`, `"likelihood_ratio"`, `"dice"` or
            `"loaded_dice"`.
        distribution: How the outputs of the policy say which actions are
            likely: a `Distribution`, `"gaussian"` or `"categorical"`.
        advantages: How advantages are estimated, within and after the inner
            loop.
        adapt: What the inner loop adapts; see `keras_meta.Learner`.
        meta_gradient: See `keras_meta.Learner`.
        seed: Seed of all that is drawn.
        name: Name of the model.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If an argument is of another type.
        FloatingPointError: In `fit`, if the inner loop diverges.

    Example:
    ```python
    policy = keras_meta.models.gaussian_mlp(2, 2)
    environment = keras_meta.reinforcement.PointNavigation()
    learner = keras_meta.PolicyLearner(policy, environment, 0.5)
    learner.compile(keras.optimizers.Adam(5e-3))
    goals = environment.batches(20)
    learner.fit(goals, steps_per_epoch=50, epochs=4)
    adapted = learner.adapt([0.3, -0.2])  # a plain Keras model
    ```

    References:
        - [Finn et al., 2017](https://arxiv.org/abs/1703.03400), algorithm 3.
        - [Rothfuss et al., 2019](https://arxiv.org/abs/1810.06784), for the
          default objective.
    """

    def __init__(
        self,
        policy: keras.Model,
        environment: Environment,
        update_rule: UpdateRule | float = 0.1,
        steps: int = 1,
        *,
        evaluation_steps: int | None = None,
        rollouts: int = 20,
        objective: PolicyObjective | str = "likelihood_ratio",
        distribution: Distribution | str = "gaussian",
        advantages: Advantages = _DEFAULT_ADVANTAGES,
        adapt: str | Sequence | Callable[[keras.Variable], bool] = "all",
        meta_gradient: MetaGradient | str = "unrolled",
        seed: int = 0,
        name: str | None = None,
    ):
        super().__init__(
            as_meta_gradient(meta_gradient),
            name=name,
            dtype=keras.config.floatx(),
            autocast=False,
        )
        check_model(policy)
        check_settings(environment, advantages)
        if evaluation_steps is None:
            evaluation_steps = steps
        check_positive(steps=steps, rollouts=rollouts)
        check_at_least(0, evaluation_steps=evaluation_steps)
        check_int64(seed=seed)
        self.policy = policy
        self.environment = environment
        self.update_rule = as_update_rule(update_rule)
        self.steps = int(steps)
        self.evaluation_steps = int(evaluation_steps)
        self.rollouts = int(rollouts)
        self.objective = as_policy_objective(objective)
        self.distribution = as_distribution(distribution)
        self.advantages = advantages
        self.adapt_spec = adapt
        self.seed = int(seed)
        adapted = select_adapted(policy, adapt)
        self.update_rule.ensure_attached(adapted, steps)
        self._task_batched = TaskBatched(policy, adapted)
        self._batched_over_all = BatchedOverAll(policy)
        self._solver = Solver(self.update_rule)
        self.meta_gradient.check(self.update_rule, steps)
        self.meta_gradient.check_start(learned=True, proximal=0.0)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """Adapts to tasks, and returns mean returns on the way.

        Args:
            inputs: Tasks, `[tasks, ...]`.
            training: Ignored.

        Returns:
            Mean returns after each number of inner steps,
            `[tasks, evaluation_steps + 1]`.
        """
        batch = self._evaluation_batch(inputs)
        adaptation = batch.adapt()
        return returns_of(adaptation, batch.act(adaptation.end))

    def adapt(
        self, task: npt.ArrayLike, steps: int | None = None, seed: int = 0
    ) -> keras.Model:
        """Adapts to one task and returns a plain Keras policy.

        Args:
            task: The task, such as a goal, `[...]`. Only the environment
                looks at it.
            steps: Number of inner steps; by default those of evaluation.
            seed: Seed of the rollouts.

        Returns:
            A model of the same architecture with adapted weights; it shares
            nothing with this one.
        """

        @tf.function(autograph=False)
        def adapted(tasks):
            return self._evaluation_batch(tasks, steps, seed).adapt().end.params

        params = adapted(as_tasks([task]))
        values = {
            id(v): value[0]
            for v, value in zip(self._task_batched.adapted, params, strict=True)
        }
        return clone_model(self.policy, values)

    def roll_out(
        self, tasks: npt.ArrayLike, steps: int | None = None, seed: int = 0
    ) -> Rollouts:
        """Adapts to tasks, and returns what the adapted policies do.

        Args:
            tasks: The tasks, `[tasks, ...]`.
            steps: Number of inner steps; by default those of evaluation.
            seed: Seed of the rollouts.

        Returns:
            Rollouts after the last step.
        """

        @tf.function(autograph=False)
        def act(tasks):
            batch = self._evaluation_batch(tasks, steps, seed)
            return batch.act(batch.adapt().end).rollouts

        return act(as_tasks(tasks))

    def _training_batch(self, tasks: Any, number: tf.Tensor) -> PolicyBatch:
        return self._batch(tasks, self.steps, _TRAINING_STREAM, number)

    def _evaluation_batch(
        self, tasks: Any, steps: int | None = None, seed: int = 0
    ) -> PolicyBatch:
        steps = self.evaluation_steps if steps is None else steps
        check_at_least(0, steps=steps)
        check_int64(seed=seed)
        return self._batch(tasks, steps, _EVALUATION_STREAM, int(seed))

    def _batch(
        self, tasks: Any, steps: int, stream: int, number: int | tf.Tensor
    ) -> PolicyBatch:
        """Returns tasks as a meta-gradient sees them."""
        seed = tf.constant([self.seed, stream], tf.int64)
        # There is none before `compile`.
        optimizer = getattr(self, "optimizer", None)
        return PolicyBatch(
            self.trainable_variables,
            self._solver,
            self._problem(),
            self._problem_of_each,
            self.meta_gradient,
            PolicyTasks(as_tasks(tasks), fold_in(seed, number)),
            steps,
            getattr(optimizer, "scale_loss", tf.identity),
        )

    def _problem(self) -> PolicyProblem:
        return PolicyProblem(
            variables=self.trainable_variables,
            xla=bool(self.compiled and self.jit_compile),
            task_batched=self._task_batched,
            environment=self.environment,
            distribution=self.distribution,
            objective=self.objective,
            advantages=self.advantages,
            rollouts=self.rollouts,
        )

    def _problem_of_each(self) -> PolicyProblem:
        """Returns the problem of tasks with meta-parameters of their own."""
        adapted = self._task_batched.adapted
        batched = self._batched_over_all.get(adapted)
        return dataclasses.replace(
            self._problem(),
            theta_per_task=True,
            task_batched=batched,
            fixed=len(batched.adapted) - len(adapted),
        )

    # Saving.

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        serialize = keras.saving.serialize_keras_object
        adapt = self.adapt_spec
        return {
            "name": self.name,
            "policy": serialize(self.policy),
            "environment": serialize(self.environment),
            "update_rule": serialize(self.update_rule),
            "steps": self.steps,
            "evaluation_steps": self.evaluation_steps,
            "rollouts": self.rollouts,
            "objective": serialize(self.objective),
            "distribution": serialize(self.distribution),
            "advantages": serialize(self.advantages),
            "adapt": serialize(adapt) if callable(adapt) else adapt,
            "meta_gradient": serialize(self.meta_gradient),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PolicyLearner:
        """Makes a learner from `get_config`'s dict."""
        deserialize = keras.saving.deserialize_keras_object
        return cls(
            **{
                key: deserialize(x) if isinstance(x, dict) else x
                for key, x in config.items()
            }
        )
