"""What a meta-gradient is estimated from, and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any
from typing import NamedTuple
from typing import Protocol

import keras
import tensorflow as tf

from keras_meta.inner.solver import Carry
from keras_meta.inner.solver import InnerGradient


class Adaptation(NamedTuple):
    """Tasks whose inner loop has run.

    Attributes:
        variables: The variables that adapted.
        start: The carry before the first step; its parameters are the
            initial values of `variables`, `[tasks, *shape]` each.
        end: The carry after the last step.
        recorded: What was recorded of the steps, `[steps, ...]`, or `None`
            without steps.
        inner_gradient: Maps values of the meta-parameters and of `variables`
            to the gradients of the inner loss after the last step.
    """

    variables: Sequence[keras.Variable]
    start: Carry
    end: Carry
    recorded: Any
    inner_gradient: InnerGradient


class Estimate(NamedTuple):
    """What a batch of tasks says about the meta-parameters.

    Attributes:
        gradients: One for each meta-parameter, or `None` if it does not
            matter to the outer loss.
        loss: The outer loss, a scalar.
        predictions: The predictions for the query sets, `[tasks, q, ...]`.
        logs: Scalars for the logs, by the names that `MetaGradient.logs`
            lists.
    """

    gradients: list[tf.Tensor | None]
    loss: tf.Tensor
    predictions: Any
    logs: Mapping[str, tf.Tensor] = MappingProxyType({})


class MetaObjective(Protocol):
    """The outer loss of one batch of tasks, as a train step sees it."""

    @property
    def variables(self) -> Sequence[keras.Variable]:
        """The meta-parameters."""

    @property
    def replicas(self) -> int:
        """Number of devices that share the batch; gradients are summed."""

    @property
    def tasks(self) -> int | tf.Tensor:
        """Number of tasks of the batch on this device."""

    def adapt(self) -> Adaptation:
        """Runs the inner loop."""

    def outer_loss(
        self, adaptation: Adaptation | None = None
    ) -> tuple[tf.Tensor, Any]:
        """Returns the outer loss, a scalar, and predictions for queries.

        Args:
            adaptation: What `adapt` returned; by default the learner is
                called, which adapts.
        """

    def task_losses(self, theta: Sequence[tf.Tensor], copies: int) -> tf.Tensor:
        """Returns the loss of the queries of each task alone.

        Regularizers of weights do not count, see `penalty`. The learner's
        state does not change.

        Args:
            theta: Values of the meta-parameters for each copy of each task,
                `[copies * tasks, *shape]` each, ordered as `[copies, tasks]`.
            copies: How many times to take each task.

        Returns:
            The losses, `[copies * tasks]`.
        """

    def penalty(self) -> tf.Tensor:
        """Returns what regularizers of weights add to the outer loss."""

    def seed(self, number: int) -> tf.Tensor:
        """Returns a seed that differs between steps and devices, `[2]`.

        Args:
            number: Distinguishes the seeds of several sequences.
        """

    def scaled(self, value: tf.Tensor) -> tf.Tensor:
        """Returns a loss, or a gradient, times the optimizer's loss scale."""
