"""The interface of all update rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import describe


class UpdateRule(keras.layers.Layer):
    """How an optimization step is taken, as pure functions.

    An update rule is a Keras layer, so its learned weights are trained, saved
    and listed with those of the model that uses it. A meta-learner calls
    `attach` once with the variables to adapt, `init_state` at the start of
    each unroll, and `observe` and then `update` at each step.

    Attributes:
        needs_loss: Whether the rule depends on the losses given to `observe`.
            A Keras optimizer does not know the loss and cannot use such a
            rule.
        fits_any_model: Whether the rule's weights are independent of the
            variables it is attached to. If so, it can be attached again, to
            other variables.
        attends: Whether `update` returns points at which to take gradients,
            instead of the parameters. `final` returns the parameters.
        counts_steps: Whether the rule has weights of its own for each of the
            `steps` that `attach` is given. A run that takes more of them
            would use the last ones for the rest.
        attached_shapes: Shapes of the variables that the rule is attached to,
            or `None`.
    """

    needs_loss = False
    fits_any_model = False
    attends = False
    counts_steps = False
    attached_shapes: Sequence[tuple[int, ...]] | None = None

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("dtype", keras.config.floatx())
        super().__init__(**kwargs)

    def attach(self, variables: Sequence[keras.Variable], steps: int) -> None:
        """Creates the weights that the rule learns.

        Args:
            variables: The variables to adapt.
            steps: Number of inner steps in training.
        """
        self.attached_shapes = [tuple(v.shape) for v in variables]
        self.built = True

    def ensure_attached(
        self, variables: Sequence[keras.Variable], steps: int = 1
    ) -> None:
        """Attaches the rule, unless it is attached to such variables already.

        Learned weights are kept.

        Args:
            variables: The variables to adapt.
            steps: See `attach`.

        Raises:
            ValueError: If the rule belongs to variables of other shapes.
        """
        if self.fits_any_model or not self.built or not self.weights:
            self.attach(variables, steps)
            return
        shapes = [tuple(v.shape) for v in variables]
        mine = [tuple(shape) for shape in self._require_attached()]
        if shapes != mine:
            raise ValueError(
                f"This {type(self).__name__} belongs to variables of shapes "
                f"{mine}. Received: variables of shapes {shapes}. Make a new "
                "rule for them."
            )

    def has_task_axis(self, params: Sequence[tf.Tensor]) -> bool:
        """Returns whether values of the variables have a task axis.

        Raises:
            RuntimeError: If the rule is not attached.
        """
        return params[0].shape.rank > len(self._require_attached()[0])

    def _require_attached(self) -> Sequence[tuple[int, ...]]:
        """Returns `attached_shapes`, or raises."""
        if self.attached_shapes is None:
            raise RuntimeError(
                f"Call `attach` before the first step of {type(self).__name__}."
            )
        return self.attached_shapes

    def init_state(self, params: Sequence[tf.Tensor]) -> Any:
        """Returns the state before the first step, nested tensors.

        Args:
            params: Values of the variables. They may have a leading task
                axis.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `init_state`."
        )

    def observe(self, state: Any, losses: tf.Tensor) -> Any:
        """Gives the rule the losses before a step.

        Args:
            state: The state before the step.
            losses: `[tasks]`, or a scalar if parameters have no task axis.

        Returns:
            The state to pass to `update`.
        """
        return state

    def final(
        self, params: Sequence[tf.Tensor], state: Any
    ) -> tuple[Sequence[tf.Tensor], Any]:
        """Returns the result of an optimization.

        Args:
            params: The values that the last `update` returned.
            state: The state that the last `update` returned.

        Returns:
            The parameters, and the state to continue from there.
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
            params: Values of the variables. They may have a leading task
                axis.
            grads: Gradients of the inner loss, in the shapes of `params`.
            state: The state before the step.

        Returns:
            The new values and the state after the step.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `update`."
        )


def check_rule(rule: Any) -> None:
    """Checks that `rule` is an `UpdateRule`."""
    if not isinstance(rule, UpdateRule):
        raise TypeError(
            "`rule` must be an update rule such as "
            f"keras_meta.CoordinatewiseLSTM(). Received: rule={describe(rule)}"
        )
