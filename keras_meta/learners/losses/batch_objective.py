"""The outer loss of one batch of tasks."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta._keras import step_counter
from keras_meta.batching import task_axis
from keras_meta.execution import replicas
from keras_meta.inner.penalties import penalty
from keras_meta.meta_gradients.objective import Adaptation
from keras_meta.seeds import fold_in

if typing.TYPE_CHECKING:
    from keras_meta.learners.learner import Learner


@dataclasses.dataclass(frozen=True)
class BatchObjective:
    """What a meta-gradient is estimated from, see `MetaObjective`.

    Attributes:
        learner: The learner.
        x: Inputs of its call.
        y: Labels of the query sets, `[tasks, q, ...]`.
        sample_weight: Weights of the queries, `[tasks, q]`, or `None`.
    """

    learner: Learner
    x: dict[str, Any]
    y: Any
    sample_weight: Any

    @property
    def variables(self) -> Sequence[keras.Variable]:
        """The meta-parameters."""
        return self.learner.trainable_variables

    @property
    def replicas(self) -> int:
        """Number of devices that share the batch; gradients are summed."""
        return tf.distribute.get_strategy().num_replicas_in_sync

    @property
    def tasks(self) -> int | tf.Tensor:
        """Number of tasks of the batch on this device."""
        return task_axis.size(self.x["support_y"], 0)

    def adapt(self) -> Adaptation:
        """Runs the inner loop."""
        return self.learner.adapt_tasks(self.x, training=True)

    def outer_loss(
        self, adaptation: Adaptation | None = None
    ) -> tuple[tf.Tensor, Any]:
        """Returns the outer loss and predictions; see `MetaObjective`."""
        return self.learner.outer_loss(
            self.x, self.y, self.sample_weight, adaptation
        )

    def task_losses(self, theta: Sequence[tf.Tensor], copies: int) -> tf.Tensor:
        """Returns the loss of each task; see `MetaObjective`."""
        return self.learner.task_losses(
            self.x, self.y, self.sample_weight, theta, copies
        )

    def penalty(self) -> tf.Tensor:
        """Returns what regularizers add; see `MetaObjective`."""
        return penalty(self.variables)

    def seed(self, number: int) -> tf.Tensor:
        """Returns a seed of this step and device; see `MetaObjective`.

        It depends on the optimizer's step counter, which is saved with the
        learner, so that training that is resumed draws what it would have
        drawn.
        """
        step = tf.cast(step_counter(self.learner.optimizer), tf.int64)
        seed = tf.stack([tf.constant(number, tf.int64), step])
        return fold_in(seed, replicas.number())

    def scaled(self, value: tf.Tensor) -> tf.Tensor:
        """Returns a value times the optimizer's loss scale."""
        return self.learner.optimizer.scale_loss(value)
