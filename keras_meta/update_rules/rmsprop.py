"""RMSprop as an update rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_decay
from keras_meta.checks import check_positive_number
from keras_meta.update_rules.gradient_descent import GradientDescent


@keras.saving.register_keras_serializable("keras_meta")
class RMSprop(GradientDescent):
    """Gradient descent along gradients divided by their root mean square.

    Args:
        learning_rate: See `GradientDescent`.
        learn: See `GradientDescent`.
        rho: Decay of the mean square, in `[0, 1)`.
        epsilon: Added to the mean square, as in Keras.
        **kwargs: Further arguments of `GradientDescent`.

    Raises:
        ValueError: If `rho` or `epsilon` is out of range.

    References:
        - [Hinton, 2012](
          https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf),
          slide 29.
    """

    def __init__(
        self,
        learning_rate: float | keras.initializers.Initializer = 0.001,
        learn: str | None = None,
        *,
        rho: float = 0.9,
        epsilon: float = 1e-7,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, learn, **kwargs)
        check_decay(rho=rho)
        check_positive_number(epsilon=epsilon)
        self.rho = rho
        self.epsilon = epsilon

    def init_state(self, params: Sequence[tf.Tensor]) -> dict[str, Any]:
        """Returns the step counter and zero mean squares."""
        squares = [tf.zeros_like(p) for p in params]
        return {**super().init_state(params), "squares": squares}

    def direction(
        self, grads: Sequence[tf.Tensor], state: dict[str, Any]
    ) -> tuple[list[tf.Tensor], dict[str, Any]]:
        """Returns the gradients divided by their root mean square."""
        squares = [
            self.rho * v + (1 - self.rho) * tf.square(g)
            for v, g in zip(state["squares"], grads, strict=True)
        ]
        moves = [
            g * tf.math.rsqrt(v + self.epsilon)
            for g, v in zip(grads, squares, strict=True)
        ]
        return moves, {**state, "squares": squares}

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "rho": self.rho,
            "epsilon": self.epsilon,
        }
