"""Adam as an update rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_decay
from keras_meta.checks import check_number_at_least
from keras_meta.update_rules.gradient_descent import GradientDescent


@keras.saving.register_keras_serializable("keras_meta")
class Adam(GradientDescent):
    """Adam. Its moments start at zero for every task.

    Args:
        learning_rate: See `GradientDescent`.
        learn: See `GradientDescent`.
        beta_1: Decay of the first moment, in `[0, 1)`; Reptile uses 0.
        beta_2: Decay of the second moment, in `[0, 1)`.
        epsilon: Added to the root of the second moment.
        **kwargs: Further arguments of `GradientDescent`.

    Raises:
        ValueError: If a decay or `epsilon` is out of range.

    References:
        - [Kingma & Ba, 2015](https://arxiv.org/abs/1412.6980), algorithm 1.
    """

    def __init__(
        self,
        learning_rate: float | keras.initializers.Initializer = 0.001,
        learn: str | None = None,
        *,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        **kwargs: Any,
    ):
        super().__init__(learning_rate, learn, **kwargs)
        check_decay(beta_1=beta_1, beta_2=beta_2)
        check_number_at_least(0, epsilon=epsilon)
        self.beta_1 = beta_1
        self.beta_2 = beta_2
        self.epsilon = epsilon

    def init_state(self, params: Sequence[tf.Tensor]) -> dict[str, Any]:
        """Returns the step counter and zero moments."""
        return {
            **super().init_state(params),
            "first": [tf.zeros_like(p) for p in params],
            "second": [tf.zeros_like(p) for p in params],
        }

    def direction(
        self, grads: Sequence[tf.Tensor], state: dict[str, Any]
    ) -> tuple[list[tf.Tensor], dict[str, Any]]:
        """Returns the quotient of the bias-corrected moments."""
        first = [
            self.beta_1 * m + (1 - self.beta_1) * g
            for m, g in zip(state["first"], grads, strict=True)
        ]
        second = [
            self.beta_2 * v + (1 - self.beta_2) * tf.square(g)
            for v, g in zip(state["second"], grads, strict=True)
        ]
        moves = [
            self._quotient(m, v, state["step"] + 1)
            for m, v in zip(first, second, strict=True)
        ]
        return moves, {**state, "first": first, "second": second}

    def _quotient(
        self, m: tf.Tensor, v: tf.Tensor, step: tf.Tensor
    ) -> tf.Tensor:
        step = tf.cast(step, m.dtype)
        m = m / (1 - tf.pow(tf.constant(self.beta_1, m.dtype), step))
        v = v / (1 - tf.pow(tf.constant(self.beta_2, m.dtype), step))
        # The square root has no derivative at zero.
        moved = tf.not_equal(v, 0)
        root = tf.sqrt(tf.where(moved, v, tf.ones_like(v)))
        return tf.where(moved, m / (root + self.epsilon), tf.zeros_like(m))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon,
        }
