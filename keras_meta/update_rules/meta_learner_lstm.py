"""An LSTM whose cell state is the parameters it trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import as_seed
from keras_meta.checks import check_positive
from keras_meta.update_rules import coordinates
from keras_meta.update_rules.coordinatewise_lstm import check_preprocessing
from keras_meta.update_rules.coordinatewise_lstm import log_and_sign
from keras_meta.update_rules.lstm import add_lstm
from keras_meta.update_rules.lstm import lstm_step
from keras_meta.update_rules.update_rule import UpdateRule

# Weights of the gates are drawn from this distance on both sides of 0.
_RANGE = 0.01
# At first, parameters are kept and gradients hardly enter.
_KEEP_BIAS = (4.0, 6.0)
_ENTER_BIAS = (-5.0, -4.0)


@keras.saving.register_keras_serializable("keras_meta")
class MetaLearnerLSTM(UpdateRule):
    """An LSTM whose cell state is the parameters and whose input the gradients.

    One gate decides how much of a parameter is kept. Another decides how much
    of its negative gradient enters. So weight decay and rate are learned for
    each parameter and step:

        parameter = keep * parameter - enter * gradient

    Both gates see the parameter, their own last value and the output of an
    LSTM that has seen gradients and losses. All parameters share the weights,
    and each has its own state. The rule is made for few-shot classification,
    `MAML(model, MetaLearnerLSTM(), steps=5, meta_gradient="first_order")`: the
    paper treats gradients as constants and also learns the initial parameters.

    Args:
        units: Units of the LSTM that sees gradients and losses.
        preprocessing: `p` of `log_and_sign` for gradients and losses.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If an argument is out of range.

    References:
        - [Ravi & Larochelle, 2017](
          https://openreview.net/forum?id=rJY0-Kcll), section 3.1. The first
          LSTM is from their experiments, and its preprocessing from appendix
          C of arXiv:1606.04474.
    """

    needs_loss = True
    fits_any_model = True

    def __init__(
        self,
        units: int = 20,
        *,
        preprocessing: float = 10.0,
        seed: int | None = None,
        **kwargs: Any,
    ):
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        check_positive(units=units)
        check_preprocessing(preprocessing)
        self.units = units
        self.preprocessing = preprocessing
        self.seed = as_seed(seed)
        self.lstm = add_lstm(self, "lstm", 4, units, self.seed)
        self.enter_kernel, self.enter_bias = self._add_gate("enter", 1)
        self.keep_kernel, self.keep_bias = self._add_gate("keep", 2)

    def _add_gate(
        self, name: str, number: int
    ) -> tuple[keras.Variable, keras.Variable]:
        def uniform(low, high):
            seed = None if self.seed is None else self.seed + number
            return keras.initializers.RandomUniform(low, high, seed)

        bias = _KEEP_BIAS if name == "keep" else _ENTER_BIAS
        return (
            self.add_weight(
                name=f"{name}_kernel",
                # The LSTM's output, the parameter and the gate's last value.
                shape=(self.units + 2,),
                initializer=uniform(-_RANGE, _RANGE),
            ),
            self.add_weight(
                name=f"{name}_bias", shape=(), initializer=uniform(*bias)
            ),
        )

    def init_state(self, params: Sequence[tf.Tensor]) -> dict[str, Any]:
        """Returns zeros, each `[coordinates]` or `[units, coordinates]`."""
        count = coordinates.count(params)
        lead = int(self.has_task_axis(params))
        tasks = params[0].shape[:lead]
        if not tasks.is_fully_defined():
            tasks = tf.shape(params[0])[:lead]
        return {
            "losses": tf.zeros(tasks, self.compute_dtype),
            "lstm": [
                tf.zeros([self.units, count], self.compute_dtype)
                for _ in range(2)
            ],
            "enter": tf.zeros([count], self.compute_dtype),
            "keep": tf.zeros([count], self.compute_dtype),
        }

    def observe(
        self, state: dict[str, Any], losses: tf.Tensor
    ) -> dict[str, Any]:
        """Keeps the losses for the next update."""
        return {**state, "losses": tf.cast(losses, self.compute_dtype)}

    def update(
        self,
        params: Sequence[tf.Tensor],
        grads: Sequence[tf.Tensor],
        state: dict[str, Any],
    ) -> tuple[list[tf.Tensor], dict[str, Any]]:
        """Takes one step; see `UpdateRule.update`."""
        gradient = coordinates.join(grads, self.compute_dtype)
        parameter = coordinates.join(params, self.compute_dtype)
        losses = coordinates.join(
            [_spread(state["losses"], p) for p in params], self.compute_dtype
        )
        x = tf.concat(
            [
                log_and_sign(x, self.preprocessing, axis=0)
                for x in (gradient, losses)
            ],
            axis=0,
        )
        seen, cell = lstm_step(
            x, *state["lstm"], *map(tf.convert_to_tensor, self.lstm)
        )
        enter = _gate(
            self.enter_kernel, self.enter_bias, seen, parameter, state["enter"]
        )
        keep = _gate(
            self.keep_kernel, self.keep_bias, seen, parameter, state["keep"]
        )
        moved = coordinates.split(keep * parameter - enter * gradient, params)
        return moved, {
            "losses": state["losses"],
            "lstm": [seen, cell],
            "enter": enter,
            "keep": keep,
        }

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "units": self.units,
            "preprocessing": self.preprocessing,
            "seed": self.seed,
        }


def _spread(losses: tf.Tensor, param: tf.Tensor) -> tf.Tensor:
    """Returns the task's loss for each coordinate of a parameter."""
    missing = param.shape.rank - losses.shape.rank
    shape = tf.concat([tf.shape(losses), [1] * missing], axis=0)
    return tf.broadcast_to(tf.reshape(losses, shape), tf.shape(param))


def _gate(
    kernel: keras.Variable,
    bias: keras.Variable,
    seen: tf.Tensor,
    parameter: tf.Tensor,
    before: tf.Tensor,
) -> tf.Tensor:
    inputs = tf.concat([seen, parameter[tf.newaxis], before[tf.newaxis]], 0)
    kernel = tf.convert_to_tensor(kernel)
    return tf.sigmoid(tf.linalg.matvec(inputs, kernel, transpose_a=True) + bias)
