"""What an inner loop optimizes."""

from __future__ import annotations

import abc
import dataclasses
import enum
from collections.abc import Collection
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


class Derivatives(enum.Enum):
    """Which derivatives of an inner loop are taken afterwards.

    Attributes:
        NONE: None. Nothing is checked and nothing is cut.
        FIRST: Those that take the gradients of the steps as constants.
        SECOND: All, so the gradients of the steps are differentiated again.
            An operation whose second derivative is wrong is refused.
    """

    NONE = 0
    FIRST = 1
    SECOND = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class InnerProblem(abc.ABC):
    """Tasks to optimize, as pure functions of explicit meta-parameters.

    All tensors of a task have a leading axis of tasks. Tasks do not depend
    on each other, so the gradient of the sum of their losses holds the
    gradient of each.

    Attributes:
        variables: The Keras variables whose values `theta` holds, in order.
            Layers and update rules read them; `scope` gives them the values.
        xla: Whether XLA will compile what is computed.
        theta_per_task: Whether each task has a `theta` of its own; each of
            its tensors has an axis of tasks then.
        theta_in_loss: Whether losses depend on `theta` other than through the
            parameters. If not, gradients that count as constants serve a
            second time, as the derivatives of recorded losses.
    """

    variables: Sequence[keras.Variable]
    xla: bool = False
    theta_per_task: bool = False
    theta_in_loss: bool = True

    @property
    def layers(self) -> Collection[keras.Layer]:
        """Layers that errors may name as the cause."""
        return ()

    def scope(self, theta: Sequence[tf.Tensor]) -> keras.StatelessScope:
        """Returns a scope in which `variables` have the values `theta`."""
        return keras.StatelessScope(zip(self.variables, theta, strict=True))

    @abc.abstractmethod
    def start(
        self, theta: Sequence[tf.Tensor], data: Any
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Returns where the inner loop begins.

        Args:
            theta: Values of the meta-parameters.
            data: What belongs to the tasks, nested tensors.

        Returns:
            The parameters to optimize, `[tasks, *shape]` each, and the state
            that losses carry along, such as moving averages.
        """

    @abc.abstractmethod
    def loss(
        self,
        theta: Sequence[tf.Tensor],
        data: Any,
        params: Sequence[tf.Tensor],
        state: Sequence[tf.Tensor],
        step: int | tf.Tensor,
        derivatives: Derivatives = Derivatives.NONE,
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns what a step descends.

        Args:
            theta: Values of the meta-parameters.
            data: What belongs to the tasks.
            params: The parameters, `[tasks, *shape]` each.
            state: The state before the step.
            step: Number of the step.
            derivatives: Which derivatives of the steps are taken later.

        Returns:
            The losses, `[tasks]`, and the state after them.
        """

    def prepared(
        self,
        theta: Sequence[tf.Tensor],
        data: Any,
        params: Sequence[tf.Tensor],
        state: Sequence[tf.Tensor],
        derivatives: Derivatives,
    ) -> InnerProblem:
        """Returns the problem with what all steps share already computed.

        Args:
            theta: Values of the meta-parameters.
            data: What belongs to the tasks.
            params: The parameters before the first step.
            state: The state before the first step.
            derivatives: Which derivatives of the steps are taken later.
        """
        return self
