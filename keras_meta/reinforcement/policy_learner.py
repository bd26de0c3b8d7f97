"""Policies that learn to learn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_meta._keras import model_supports_jit
from keras_meta._keras import step_counter
from keras_meta.batching.task_batched import TaskBatched
from keras_meta.checks import check_at_least
from keras_meta.checks import check_int64
from keras_meta.checks import check_positive
from keras_meta.execution.endless import refuses_endless
from keras_meta.execution.failures import Failure
from keras_meta.execution.health import Health
from keras_meta.execution.not_finite import can_learn_from
from keras_meta.execution.undoing import undone_unless
from keras_meta.execution.warn_once import WarnOnce
from keras_meta.inner.solver import Solver
from keras_meta.learners.arguments import as_update_rule
from keras_meta.learners.arguments import check_model
from keras_meta.learners.batched_over_all import BatchedOverAll
from keras_meta.learners.cloning import clone_model
from keras_meta.learners.selection import select_adapted
from keras_meta.meta_gradients.get import as_meta_gradient
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.reinforcement.advantages import Advantages
from keras_meta.reinforcement.distribution import Distribution
from keras_meta.reinforcement.environment import Environment
from keras_meta.reinforcement.get import as_distribution
from keras_meta.reinforcement.get import as_policy_objective
from keras_meta.reinforcement.get import check_settings
from keras_meta.reinforcement.policy_batch import PolicyBatch
from keras_meta.reinforcement.policy_batch import returns_of
from keras_meta.reinforcement.policy_objective import PolicyObjective
from keras_meta.reinforcement.policy_problem import PolicyProblem
from keras_meta.reinforcement.policy_problem import PolicyTasks
from keras_meta.seeds import fold_in
from keras_meta.update_rules.update_rule import UpdateRule

# Told apart by these, the numbers drawn in training and in evaluation differ.
_TRAINING_STREAM = 127
_EVALUATION_STREAM = 131
_DEFAULT_ADVANTAGES = Advantages()


@keras.saving.register_keras_serializable("keras_meta")
class PolicyLearner(keras.Model):
    """Learns a policy from which few policy gradient steps suffice (MAML).

    To adapt to a task, the policy acts in it, takes a step that descends
    `objective` on its own rollouts, acts again, and so on. A step of `fit`
    does so for a batch of tasks, draws rollouts from the adapted policies,
    and moves the initial policy so that their return grows. Here as in
    `keras_meta.MAML`, `meta_gradient` says how the gradient comes back
    through the inner steps, and `update_rule` how these are taken. It is a
    model of its own because a task has no examples: what it learns from is
    drawn within the inner loop, from the policy that has adapted so far.

    What is differentiated is the return after the update, with the rollouts
    before it as numbers that do not depend on the policy. So nothing rewards
    the initial policy for exploring, beyond what `objective` brings back
    through its second derivative; see `PolicyObjective`.

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
    >>> import keras
    >>> import keras_meta
    >>> from keras_meta import reinforcement
    >>> policy = keras_meta.models.gaussian_mlp(2, 2, hidden=[10])
    >>> learner = keras_meta.PolicyLearner(
    ...     policy, reinforcement.PointNavigation(horizon=5), 0.1, rollouts=4
    ... )
    >>> learner.compile(keras.optimizers.Adam(1e-3))
    >>> goals = learner.environment.batches(8, num_batches=2)
    >>> history = learner.fit(goals, verbose=0)
    >>> sorted(history.history)
    ['adapted_return', 'initial_return', 'loss']
    >>> adapted = learner.adapt([0.3, -0.2])  # a plain Keras model

    References:
        - [Finn et al., 2017](https://arxiv.org/abs/1703.03400), algorithm 3.
        - [Rothfuss et al., 2019](https://arxiv.org/abs/1810.06784), for the
          two objectives.
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
        super().__init__(name=name, dtype=keras.config.floatx(), autocast=False)
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
        self._meta_gradient = as_meta_gradient(meta_gradient)
        self._meta_gradient.check(self.update_rule, steps)
        self._meta_gradient.check_start(learned=True, proximal=0.0)
        names = ("initial_return", "adapted_return", *self._meta_gradient.logs)
        self._trackers = {name: keras.metrics.Mean(name) for name in names}
        self._health = Health()
        self._warner = WarnOnce()
        self.built = True

    @property
    def meta_gradient(self) -> MetaGradient:
        """How the gradient comes back through the inner loop."""
        return self._meta_gradient

    fit = refuses_endless(keras.Model.fit)
    evaluate = refuses_endless(keras.Model.evaluate)
    predict = refuses_endless(keras.Model.predict)

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        loss: None = None,
        **kwargs: Any,
    ) -> None:
        """Sets what learns the initial policy.

        Args:
            optimizer: A Keras optimizer or its name.
            loss: Only `None`; the environment has rewards.
            **kwargs: Further arguments of `keras.Model.compile`, such as
                `jit_compile`; no metrics.

        Raises:
            ValueError: If there is a loss or a metric.
        """
        arguments = {"loss": loss, **kwargs}
        for key in ("loss", "loss_weights", "metrics", "weighted_metrics"):
            if arguments.get(key) is not None:
                raise ValueError(
                    "A PolicyLearner learns from the rewards of its "
                    f"environment. Received: {key}={arguments[key]!r} in "
                    "`compile`. Leave it out."
                )
        super().compile(optimizer, **kwargs)

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """Adapts to tasks, and returns mean returns on the way.

        Args:
            inputs: Tasks, `[tasks, ...]`.
            training: Ignored.

        Returns:
            Mean returns after each number of inner steps,
            `[tasks, evaluation_steps + 1]`.
        """
        batch = self._evaluated(inputs, self.evaluation_steps)
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
        steps = self.evaluation_steps if steps is None else steps
        check_at_least(0, steps=steps)
        check_int64(seed=seed)

        @tf.function(autograph=False)
        def adapted(tasks):
            return self._evaluated(tasks, steps, seed).adapt().end.params

        params = adapted(tf.convert_to_tensor(np.asarray(task)[np.newaxis]))
        values = {
            id(v): value[0]
            for v, value in zip(self._task_batched.adapted, params, strict=True)
        }
        return clone_model(self.policy, values)

    # Steps of Keras.

    def train_step(self, data: Any) -> dict[str, Any]:
        """Adapts to a batch of tasks, and learns from the result."""
        self._check_one_replica()
        number = tf.cast(step_counter(self.optimizer), tf.int64)
        seed = fold_in(self._seed(_TRAINING_STREAM), number)
        batch = self._batch(data, self.steps, seed)
        variables = self.trainable_variables
        changed = [*variables, *self.optimizer.variables]
        with undone_unless(lambda: self._health.is_ok, changed):
            estimate = self.meta_gradient.estimate(batch)
            returns = estimate.predictions
            self._health.report_inner_losses(tf.transpose(returns))
            gradients = [
                None if g is None else tf.convert_to_tensor(g)
                for g in estimate.gradients
            ]
            self._health.report_outer(
                can_learn_from(estimate.loss, gradients, self.optimizer)
            )
            self.optimizer.apply_gradients(
                zip(gradients, variables, strict=True)
            )
        for name, value in estimate.logs.items():
            self._trackers[name].update_state(value)
        return self._log(batch, estimate.loss, returns)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Adapts to a batch of tasks, and measures returns."""
        tasks = _tasks_of(data)
        batch = self._evaluated(tasks, self.evaluation_steps)
        loss, returns = batch.outer_loss(batch.adapt())
        logs = self._log(batch, loss, returns)
        return {k: v for k, v in logs.items() if k not in self._own_logs}

    def predict_step(self, data: Any) -> tf.Tensor:
        """Returns mean returns of a batch of tasks; see `call`."""
        return self(_tasks_of(data))

    def make_train_function(self, force: bool = False) -> Callable[[Any], Any]:
        """Builds the training step, which stops on what went wrong."""
        if self.train_function is None or force:
            super().make_train_function(force)
            self.train_function = self._warner.around(
                self._checked_step(self.train_function),
                self.meta_gradient.logs,
                self.meta_gradient.warning,
            )
        return self.train_function

    @property
    def _own_logs(self) -> Sequence[str]:
        return self.meta_gradient.logs

    def _log(
        self, batch: PolicyBatch, loss: tf.Tensor, returns: tf.Tensor
    ) -> dict[str, Any]:
        """Updates the metrics; returns the logs.

        Args:
            batch: The tasks.
            loss: The outer loss.
            returns: Mean returns, `[tasks, steps + 1]`.
        """
        self._loss_tracker.update_state(loss, batch.tasks)
        for name, at in ("initial_return", 0), ("adapted_return", -1):
            self._trackers[name].update_state(returns[:, at])
        return self.get_metrics_result()

    def _seed(self, stream: int) -> tf.Tensor:
        return tf.constant([self.seed, stream], tf.int64)

    def _evaluated(self, tasks: Any, steps: int, seed: int = 0) -> PolicyBatch:
        own = fold_in(self._seed(_EVALUATION_STREAM), seed)
        return self._batch(tasks, steps, own)

    def _batch(self, data: Any, steps: int, seed: tf.Tensor) -> PolicyBatch:
        """Returns tasks as a meta-gradient sees them."""
        scale = getattr(self.optimizer, "scale_loss", tf.identity)
        return PolicyBatch(
            self.trainable_variables,
            self._solver,
            self._problem(),
            self._problem_of_each,
            self.meta_gradient,
            PolicyTasks(_tasks_of(data), seed),
            steps,
            scale,
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

    def _check_one_replica(self) -> None:
        replicas = self.distribute_strategy.num_replicas_in_sync
        if replicas > 1:
            raise ValueError(
                "A PolicyLearner trains on one device. Received: a strategy "
                f"of {replicas} replicas. Leave its scope; more tasks or "
                "rollouts keep one device busy."
            )

    def _resolve_auto_jit_compile(self) -> bool:
        """Tells what `compile(jit_compile="auto")` means."""
        fits = super()._resolve_auto_jit_compile() and model_supports_jit(self)
        return fits and not self._task_batched.has_fallback

    def _checked_step(
        self, function: Callable[[Any], Any]
    ) -> Callable[[Any], Any]:
        def call_and_check(iterator):
            logs = function(iterator)
            failure = self._health.take()
            if failure is not None:
                raise FloatingPointError(self._describe(failure))
            return logs

        return call_and_check

    def _describe(self, failure: Failure) -> str:
        if failure.is_outer:
            found = (
                "The outer loss or its gradient is not finite, though all "
                f"returns are.{self.meta_gradient.hint}"
            )
        else:
            found = (
                f"Returns are not finite after {failure.step} inner steps of "
                f"task {failure.task} in the batch."
            )
        return (
            f"{found} Take a lower rate of the inner loop or of the optimizer, "
            "or set the update rule's clip_norm. The step was undone: weights "
            "and optimizer are as they were before it."
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


def _tasks_of(data: Any) -> tf.Tensor:
    """Returns the tasks of a batch, as Keras passes it."""
    x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
    return tf.convert_to_tensor(x)
