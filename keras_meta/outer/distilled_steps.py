"""Gradient descent on learned examples, with a learned rate for each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_meta.hyperparameters.hyperparameter import Hyperparameter
from keras_meta.update_rules.update_rule import UpdateRule


class DistilledSteps(UpdateRule):
    """Gradient descent, with a positive learned rate for each step.

    Args:
        learning_rate: The first value of the rates.
        steps: How many there are.
        **kwargs: Further arguments of `keras.layers.Layer`.
    """

    def __init__(self, learning_rate: float, steps: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.rates = Hyperparameter(
            np.full([steps], learning_rate), minimum=0.0, name="learning_rates"
        )

    def init_state(self, params: Sequence[tf.Tensor]) -> tf.Tensor:
        """Returns the number of the next step, an int32 scalar."""
        return tf.zeros([], tf.int32)

    def update(
        self,
        params: Sequence[tf.Tensor],
        grads: Sequence[tf.Tensor],
        state: tf.Tensor,
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Takes one step; see `UpdateRule.update`."""
        rate = tf.gather(self.rates(), state)
        moved = [
            param - tf.cast(rate, param.dtype) * gradient
            for param, gradient in zip(params, grads, strict=True)
        ]
        return moved, state + 1
