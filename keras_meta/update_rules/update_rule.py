"""The interface of all update rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import describe


class UpdateRule(keras.layers.Layer):
    """How one optimization step is taken, as pure functions.

    An update rule is a Keras layer, so what it learns is trained, saved and
    listed with the weights of the model that uses it. A meta-learner calls
    `attach` once with the variables to be adapted, `init_state` at the start
    of each unroll, and `observe` and then `update` at each step.

    Attributes:
        needs_loss: Whether the rule depends on what it is told by `observe`.
            A Keras optimizer, which does not know the loss, cannot use it.
        fits_any_model: Whether the rule's weights do not depend on what it is
            attached to. It may be attached again then, to other variables.
        attends: Whether `update` returns points at which gradients are to be
            taken, which are others than the parameters; `final` tells these.
        attached_shapes: Shapes of the variables that it is attached to, or
            `None`.
    """

    needs_loss = False
    fits_any_model = False
    attends = False
    attached_shapes: Sequence[tuple[int, ...]] | None = None

    def __init__(self, **kwargs):
        kwargs.setdefault("dtype", keras.config.floatx())
        super().__init__(**kwargs)

    def attach(self, variables: Sequence[keras.Variable], steps: int) -> None:
        """Creates the weights that the rule learns.

        Args:
            variables: The variables to be adapted.
            steps: Number of steps of the inner loop in training.
        """
        self.attached_shapes = [tuple(v.shape) for v in variables]
        self.built = True

    def ensure_attached(
        self, variables: Sequence[keras.Variable], steps: int = 1
    ) -> None:
        """Attaches the rule, unless it is and keeps what it has learned.

        Args:
            variables: The variables to be adapted.
            steps: See `attach`.

        Raises:
            ValueError: If the rule belongs to variables of other shapes.
        """
        if self.fits_any_model or not self.built or not self.weights:
            self.attach(variables, steps)
            return
        shapes = [tuple(v.shape) for v in variables]
        mine = [tuple(shape) for shape in self.attached_shapes]
        if shapes != mine:
            raise ValueError(
                f"This {type(self).__name__} belongs to variables of the "
                f"shapes {mine}. Received: variables of the shapes {shapes}. "
                "Make a new rule for them."
            )

    def has_task_axis(self, params: Sequence[tf.Tensor]) -> bool:
        """Returns whether values of the variables carry a task axis.

        Raises:
            RuntimeError: If the rule is not attached.
        """
        if self.attached_shapes is None:
            raise RuntimeError(
                f"Call `attach` before the first step of {type(self).__name__}."
            )
        return params[0].shape.rank > len(self.attached_shapes[0])

    def init_state(self, params: Sequence[tf.Tensor]) -> Any:
        """Returns the state before the first step, nested tensors.

        Args:
            params: Values of the variables, which may carry a leading task
                axis.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `init_state`."
        )

    def observe(self, state: Any, losses: tf.Tensor) -> Any:
        """Tells the rule the losses before a step.

        Args:
            state: The state before the step.
            losses: `[tasks]`, or a scalar for parameters without tasks.

        Returns:
            The state to give `update`.
        """
        return state

    def final(
        self, params: Sequence[tf.Tensor], state: Any
    ) -> tuple[Sequence[tf.Tensor], Any]:
        """Returns the result of an optimization.

        Args:
            params: What the last `update` returned.
            state: The state that it returned.

        Returns:
            The parameters, and the state from which optimization goes on
            there.
        """
        return params, state

    def update(
        self,
        params: Sequence[tf.Tensor],
        grads: Sequence[tf.Tensor],
        state: Any,
    ) -> tuple[list[tf.Tensor], Any]:
        """Takes one step.

        Args:
            params: Values of the variables, which may carry a leading task
                axis.
            grads: Gradients of the inner loss, of the shapes of `params`.
            state: The state before the step.

        Returns:
            The new values and the state after the step.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `update`."
        )


def check_rule(rule) -> None:
    """Checks that a rule to be trained is one; raises if not."""
    if not isinstance(rule, UpdateRule):
        raise TypeError(
            "`rule` must be an update rule such as "
            f"keras_meta.CoordinatewiseLSTM(). Received: rule={describe(rule)}"
        )
