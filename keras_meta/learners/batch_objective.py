"""The outer loss of one batch of tasks."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.inner.solver import Carry
from keras_meta.meta_gradients.objective import Adaptation

if typing.TYPE_CHECKING:
    from keras_meta.learners.learner import Learner


@dataclasses.dataclass(frozen=True)
class BatchObjective:
    """What a meta-gradient is estimated of, see `MetaObjective`.

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

    def inner_gradients(self, carry: Carry) -> list[tf.Tensor]:
        """Returns the gradients of the inner loss; see `MetaObjective`."""
        return self.learner.inner_gradients(self.x, carry)

    def scaled(self, value: tf.Tensor) -> tf.Tensor:
        """Returns a value times the optimizer's loss scale."""
        return self.learner.optimizer.scale_loss(value)
