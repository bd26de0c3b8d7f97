"""The steps of a learner of policies, and the functions that Keras runs."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_meta._keras import step_counter
from keras_meta.execution.endless import refuses_endless
from keras_meta.execution.failures import Failure
from keras_meta.execution.health import Health
from keras_meta.execution.not_finite import can_learn_from
from keras_meta.execution.undoing import undone_unless
from keras_meta.execution.warn_once import WarnOnce
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.meta_gradients.objective import Estimate
from keras_meta.reinforcement.arguments import check_no_loss
from keras_meta.reinforcement.policy_batch import PolicyBatch

_RETURNS = ("initial_return", "adapted_return")


class PolicyTraining(keras.Model, abc.ABC):
    """The part of a `PolicyLearner` that trains and evaluates.

    Args:
        meta_gradient: How the gradient comes back through the inner loop.
        **kwargs: See `keras.Model`.
    """

    def __init__(self, meta_gradient: MetaGradient, **kwargs: Any):
        super().__init__(**kwargs)
        self._meta_gradient = meta_gradient
        names = (*_RETURNS, *meta_gradient.logs)
        self._trackers = {name: keras.metrics.Mean(name) for name in names}
        self._health = Health()
        self._warner = WarnOnce()

    @property
    def meta_gradient(self) -> MetaGradient:
        """How the gradient comes back through the inner loop."""
        return self._meta_gradient

    @abc.abstractmethod
    def _training_batch(self, tasks: Any, number: tf.Tensor) -> PolicyBatch:
        """Returns tasks to learn from.

        Args:
            tasks: The tasks, `[tasks, ...]`.
            number: Number of the meta-step, int64.
        """

    @abc.abstractmethod
    def _evaluation_batch(self, tasks: Any) -> PolicyBatch:
        """Returns tasks to adapt to, with the seed of evaluation."""

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
        check_no_loss({"loss": loss, **kwargs})
        super().compile(optimizer, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a learner that is read from a file."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Adapts to a batch of tasks, and learns from the result."""
        self._check_one_replica()
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        number = tf.cast(step_counter(self.optimizer), tf.int64)
        batch = self._training_batch(x, number)
        changed = [*self.trainable_variables, *self.optimizer.variables]
        with undone_unless(lambda: self._health.is_ok, changed):
            estimate = self.meta_gradient.estimate(batch)
            self._learn(estimate)
        for name, value in estimate.logs.items():
            self._trackers[name].update_state(value)
        return self._log(estimate.loss, estimate.predictions)

    def _learn(self, estimate: Estimate) -> None:
        """Takes a step of the optimizer, and reports what is not finite."""
        gradients = [
            None if g is None else tf.convert_to_tensor(g)
            for g in estimate.gradients
        ]
        self._health.report_inner_losses(tf.transpose(estimate.predictions))
        self._health.report_outer(
            can_learn_from(estimate.loss, gradients, self.optimizer)
        )
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )

    def test_step(self, data: Any) -> dict[str, Any]:
        """Adapts to a batch of tasks, and measures returns."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        batch = self._evaluation_batch(x)
        logs = self._log(*batch.outer_loss(batch.adapt()))
        return {name: logs[name] for name in ("loss", *_RETURNS)}

    def predict_step(self, data: Any) -> tf.Tensor:
        """Returns mean returns of a batch of tasks; see `call`."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self(x)

    def _log(self, loss: tf.Tensor, returns: tf.Tensor) -> dict[str, Any]:
        """Updates the metrics; returns the logs.

        Args:
            loss: The outer loss.
            returns: Mean returns, `[tasks, steps + 1]`.
        """
        self._loss_tracker.update_state(loss, tf.shape(returns)[0])
        for name, column in zip(_RETURNS, (0, -1), strict=True):
            self._trackers[name].update_state(returns[:, column])
        return self.get_metrics_result()

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

    def _check_one_replica(self) -> None:
        replicas = self.distribute_strategy.num_replicas_in_sync
        if replicas > 1:
            raise ValueError(
                "A PolicyLearner trains on one device. Received: a strategy "
                f"of {replicas} replicas. Leave its scope; more tasks or "
                "rollouts keep one device busy."
            )
