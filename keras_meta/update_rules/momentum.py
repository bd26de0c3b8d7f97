"""Gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_bool
from keras_meta.checks import check_decay
from keras_meta.update_rules.gradient_descent import GradientDescent


@keras.saving.register_keras_serializable("keras_meta")
class Momentum(GradientDescent):
    """Gradient descent with a decaying sum of past gradients.

    The velocity is `momentum * velocity + gradient` and starts at zero for
    every task. The parameters move by the rate times the velocity.

    Args:
        learning_rate: See `GradientDescent`.
        learn: See `GradientDescent`.
        momentum: Decay of the velocity, in `[0, 1)`.
        nesterov: Whether to look ahead: the parameters then move by
            `momentum * velocity + gradient` with the new velocity.
        **kwargs: Further arguments of `GradientDescent`.

    Raises:
        ValueError: If `momentum` or `nesterov` is out of range.

    References:
        - [Sutskever et al., 2013](
          https://proceedings.mlr.press/v28/sutskever13.html), section 2.
    """

    def __init__(
        self,
        learning_rate: float | keras.initializers.Initializer = 0.01,
        learn: str | None = None,
        *,
        momentum: float = 0.9,
        nesterov: bool = False,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, learn, **kwargs)
        check_decay(momentum=momentum)
        check_bool(nesterov=nesterov)
        self.momentum = momentum
        self.nesterov = bool(nesterov)

    def init_state(self, params: Sequence[tf.Tensor]) -> dict[str, Any]:
        """Returns the step counter and zero velocities."""
        velocity = [tf.zeros_like(p) for p in params]
        return {**super().init_state(params), "velocity": velocity}

    def direction(
        self, grads: Sequence[tf.Tensor], state: dict[str, Any]
    ) -> tuple[list[tf.Tensor], dict[str, Any]]:
        """Returns the new velocity, or with `nesterov` the one after it."""
        velocity = [
            self.momentum * v + g
            for v, g in zip(state["velocity"], grads, strict=True)
        ]
        moves = velocity
        if self.nesterov:
            moves = [
                self.momentum * v + g
                for v, g in zip(velocity, grads, strict=True)
            ]
        return moves, {**state, "velocity": velocity}

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "nesterov": self.nesterov,
        }
