"""What all have in common that learn what training depends on."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta._keras import model_supports_jit
from keras_meta.batching.task_batched import TaskBatched
from keras_meta.execution.failures import Failure
from keras_meta.execution.health import Health
from keras_meta.execution.not_finite import can_learn_from
from keras_meta.execution.undoing import undone_unless
from keras_meta.execution.warn_once import WarnOnce
from keras_meta.inner.solver import Solver
from keras_meta.learners.arguments import as_inner_loss
from keras_meta.learners.arguments import check_model
from keras_meta.meta_gradients.get import as_meta_gradient
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.meta_gradients.objective import Estimate
from keras_meta.outer.training_objective import Trained
from keras_meta.outer.training_objective import TrainingObjective
from keras_meta.update_rules.update_rule import UpdateRule


class TrainingLearner(keras.Model):
    """Learns by gradient what the training of a model depends on.

    Args:
        model: A built Keras model.
        meta_gradient: How the gradient comes back through training; a
            `keras_meta.MetaGradient`, or a name.
        inner_loss: The training loss, if it is another than the compiled
            one; whatever `compile` takes as a loss.
        name: Name of the learner.
    """

    # What errors call the outer loss and what it learns.
    _outer_name = "outer loss"
    _learned_name = "learned values"

    def __init__(
        self,
        model: keras.Model,
        meta_gradient: MetaGradient | str,
        inner_loss: Any,
        name: str | None,
    ):
        # The model casts its inputs itself.
        super().__init__(name=name, dtype=keras.config.floatx(), autocast=False)
        check_model(model)
        if inner_loss is not None:
            as_inner_loss(inner_loss)
        self.model = model
        self.inner_loss = inner_loss
        self._meta_gradient = as_meta_gradient(meta_gradient)
        names = ("training_loss", *self._meta_gradient.logs)
        self._trackers = {name: keras.metrics.Mean(name) for name in names}
        self._health = Health()
        self._warner = WarnOnce()

    def _trains(
        self,
        adapted: Sequence[keras.Variable],
        update_rule: UpdateRule,
        steps: int,
    ) -> None:
        """Sets what training changes, and how.

        Args:
            adapted: The weights that it changes.
            update_rule: How it takes its steps.
            steps: How many there are.
        """
        self.update_rule = update_rule
        update_rule.ensure_attached(adapted, steps)
        self._meta_gradient.check(update_rule)
        self._task_batched = TaskBatched(self.model, adapted)
        self._solver = Solver(update_rule)

    @property
    def meta_gradient(self) -> MetaGradient:
        """How the gradient comes back through training."""
        return self._meta_gradient

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        """What the outer optimizer learns."""
        return self.trainable_variables

    @property
    def losses(self) -> list[Any]:
        """Nothing, as regularizers act in training alone."""
        return []

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "adam",
        loss: Any = None,
        **kwargs: Any,
    ) -> None:
        """Sets the outer optimizer and the outer loss; see `keras.Model`."""
        if loss is None:
            raise ValueError(
                f"`loss` must be given: {self._learned_name} are learned from "
                f"the {self._outer_name}. Received: loss=None."
            )
        if self.inner_loss is None:
            as_inner_loss(loss)
        super().compile(optimizer, loss, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a learner that is read from a file."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def _check_one_replica(self) -> None:
        replicas = self.distribute_strategy.num_replicas_in_sync
        if replicas > 1:
            raise ValueError(
                f"A {type(self).__name__} trains on one device. Received: a "
                f"strategy of {replicas} replicas. Leave its scope."
            )

    def _learn(
        self,
        objective: TrainingObjective,
        state: Sequence[keras.Variable],
        keep: Callable[[Trained], tf.Tensor],
    ) -> Estimate:
        """Takes a step of the outer optimizer, unless something failed.

        Args:
            objective: What to learn from.
            state: Variables that `keep` and `_estimate` change.
            keep: Called with what was learned from, after the outer optimizer
                has taken its step. It returns the training losses to log.
        """
        variables = self.trainable_variables
        changed = [*state, *variables, *self.optimizer.variables]
        with undone_unless(lambda: self._health.is_ok, changed):
            estimate = self._estimate(objective)
            trained = estimate.predictions
            gradients = [*map(tf.convert_to_tensor, estimate.gradients)]
            if trained.losses is not None:
                self._health.report_inner_losses(
                    trained.losses, objective.first
                )
            self._health.report_outer(
                can_learn_from(estimate.loss, gradients, self.optimizer)
            )
            self.optimizer.apply_gradients(
                zip(gradients, variables, strict=True)
            )
            losses = keep(trained)
        logs = {"training_loss": tf.reduce_mean(losses)}
        for name, value in {**logs, **estimate.logs}.items():
            self._trackers[name].update_state(value)
        return estimate

    def _estimate(self, objective: TrainingObjective) -> Estimate:
        """Returns what to learn from some training."""
        return self.meta_gradient.estimate(objective)

    def _resolve_auto_jit_compile(self) -> bool:
        """Tells what `compile(jit_compile="auto")` means.

        XLA serves a GPU. There it compiles slowly what is called once per
        task.
        """
        fits = super()._resolve_auto_jit_compile() and model_supports_jit(self)
        return fits and not self._task_batched.has_fallback

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

    def _checked_step(
        self, function: Callable[[Any], Any]
    ) -> Callable[[Any], Any]:
        def call_and_check(iterator):
            logs = function(iterator)
            failure = self._health.take()
            if failure is not None:
                raise FloatingPointError(
                    f"{self._describe(failure)} The step was undone: weights, "
                    f"{self._learned_name} and optimizer are as they were "
                    "before it."
                )
            return logs

        return call_and_check

    def _describe(self, failure: Failure) -> str:
        if failure.is_outer:
            return (
                f"The {self._outer_name} or its gradient is not finite, though "
                "every training loss is: training diverges in its last steps, "
                "or the gradient explodes. Take fewer steps or a lower rate."
                f"{self.meta_gradient.hint}"
            )
        return (
            f"The training loss is not finite at step {failure.step}. The "
            f"{self._learned_name} make training diverge: "
            f"{self._against_divergence}"
        )

    # What helps if training diverges, a sentence.
    _against_divergence = "take lower rates."
