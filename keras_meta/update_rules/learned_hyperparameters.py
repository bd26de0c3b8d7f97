"""Gradient descent with learned hyperparameters for each tensor."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_finite_number
from keras_meta.checks import check_positive_number
from keras_meta.checks import describe
from keras_meta.checks import is_number
from keras_meta.update_rules.update_rule import UpdateRule


@keras.saving.register_keras_serializable("keras_meta")
class LearnedHyperparameters(UpdateRule):
    """Gradient descent that learns a rate, momentum and decay per tensor.

    This is the cheapest learned rule, with three numbers for each tensor:

        velocity = momentum * velocity + gradient + decay * parameter
        parameter = parameter - rate * velocity

    Rates are learned as logarithms and stay positive. Momenta stay between 0
    and 1. The learned numbers fit only one architecture.

    Args:
        learning_rate: Initial rate of all tensors, positive.
        momentum: Initial momentum of all tensors, in `(0, 1)`.
        weight_decay: Initial decay of all tensors. It may become negative.

    Raises:
        ValueError: If an argument is out of range.

    Example:
    >>> rule = LearnedHyperparameters(0.1, momentum=0.5)
    >>> rule.attach([keras.Variable([1.0, 2.0])], steps=1)
    >>> params = [tf.constant([1.0, 2.0])]
    >>> state = rule.init_state(params)
    >>> params, state = rule.update(params, [tf.constant([1.0, -1.0])], state)
    >>> params[0].numpy()
    array([0.9, 2.1], dtype=float32)

    References:
        - [Maclaurin et al., 2015](https://arxiv.org/abs/1502.03492),
          section 3.1, which learns these numbers for one long run.
    """

    def __init__(
        self,
        learning_rate: float = 0.01,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_positive_number(learning_rate=learning_rate)
        if not (is_number(momentum) and 0 < momentum < 1):
            raise ValueError(
                "`momentum` must be above 0 and below 1 to be learned. "
                f"Received: momentum={describe(momentum)}"
            )
        check_finite_number(weight_decay=weight_decay)
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay

    def attach(self, variables: Sequence[keras.Variable], steps: int) -> None:
        """Creates three numbers per variable; see `UpdateRule.attach`."""
        logit = math.log(self.momentum / (1 - self.momentum))
        self.log_rates, self.momentum_logits, self.decays = [
            self.add_weight(
                name=name,
                shape=(len(variables),),
                initializer=functools.partial(_filled, value),
                autocast=False,
            )
            for name, value in (
                ("log_rates", math.log(self.learning_rate)),
                ("momentum_logits", logit),
                ("decays", self.weight_decay),
            )
        ]
        super().attach(variables, steps)

    def init_state(self, params: Sequence[tf.Tensor]) -> dict[str, Any]:
        """Returns zero velocities."""
        return {"velocity": [tf.zeros_like(p) for p in params]}

    def update(
        self,
        params: Sequence[tf.Tensor],
        grads: Sequence[tf.Tensor],
        state: dict[str, Any],
    ) -> tuple[list[tf.Tensor], dict[str, Any]]:
        """Takes one step; see `UpdateRule.update`."""
        rates = tf.exp(tf.convert_to_tensor(self.log_rates))
        momenta = tf.sigmoid(tf.convert_to_tensor(self.momentum_logits))
        decays = tf.convert_to_tensor(self.decays)
        moved, velocity = [], []
        for i, (p, g, v) in enumerate(
            zip(params, grads, state["velocity"], strict=True)
        ):
            rate, momentum, decay = [
                tf.cast(x[i], p.dtype) for x in (rates, momenta, decays)
            ]
            velocity.append(momentum * v + g + decay * p)
            moved.append(p - rate * velocity[-1])
        return moved, {"velocity": velocity}

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "learning_rate": self.learning_rate,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
        }


def _filled(value: float, shape: Sequence[int], dtype: str) -> tf.Tensor:
    # Keras's own initializer rounds to float32.
    return tf.fill(shape, tf.constant(value, dtype))
