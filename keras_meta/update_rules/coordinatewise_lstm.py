"""An LSTM that proposes the update of each coordinate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_meta.checks import as_seed
from keras_meta.checks import check_positive_number
from keras_meta.checks import describe
from keras_meta.update_rules import coordinates
from keras_meta.update_rules.lstm import LSTMWeights
from keras_meta.update_rules.lstm import add_lstm
from keras_meta.update_rules.lstm import lstm_step
from keras_meta.update_rules.recompute import recompute
from keras_meta.update_rules.units import as_units
from keras_meta.update_rules.update_rule import UpdateRule

# The exponential of a larger integer overflows float32.
_LARGEST_P = 88


class Readout(NamedTuple):
    """Weights of the layer that outputs the update."""

    kernel: keras.Variable
    bias: keras.Variable


def check_preprocessing(preprocessing: float) -> None:
    """Checks the `p` of `log_and_sign`."""
    check_positive_number(preprocessing=preprocessing)
    if preprocessing > _LARGEST_P:
        raise ValueError(
            f"`preprocessing` must be at most {_LARGEST_P}, because its "
            "exponential must be finite in float32. Received: "
            f"preprocessing={describe(preprocessing)}"
        )


def log_and_sign(gradients: tf.Tensor, p: float, axis: int = -1) -> tf.Tensor:
    """Splits gradients into their order of magnitude and their sign.

    `(log|g| / p, sign g)` where `|g| >= exp(-p)`, else `(-1, exp(p) g)`.

    Args:
        gradients: A tensor of any shape.
        p: The scale of the logarithm, positive. Gradients below `exp(-p)`
            count as small.
        axis: Position of the new axis.

    Returns:
        Both numbers along the new axis. They are in `[-1, 1]` unless a
        gradient is larger than `exp(p)`.

    References:
        - [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
          appendix A.
    """
    size = tf.abs(gradients)
    is_large = size >= math.exp(-p)
    # At zero, the derivative of the logarithm is infinite.
    log = tf.math.log(tf.where(is_large, size, tf.ones_like(size))) / p
    return tf.stack(
        [
            tf.where(is_large, log, -tf.ones_like(size)),
            tf.where(is_large, tf.sign(gradients), math.exp(p) * gradients),
        ],
        axis=axis,
    )


@keras.saving.register_keras_serializable("keras_meta")
class CoordinatewiseLSTM(UpdateRule):
    """A small LSTM that updates each coordinate separately.

    All coordinates share its weights, and each has its own state. The LSTM
    sees the gradient of one coordinate at a time, so it works with any number
    of parameters. The update is the output of the LSTM times `output_scale`.
    The rule must be trained before use.

    Args:
        units: Units of each layer.
        preprocessing: `p` of `log_and_sign`, for gradients of widely varying
            magnitude. `None` feeds the gradient itself.
        output_scale: Factor of the network's output. A small value makes the
            untrained rule harmless.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If an argument is out of range.

    Example:
    >>> rule = CoordinatewiseLSTM(seed=1)
    >>> params = [tf.zeros([3, 2]), tf.zeros([2])]
    >>> state = rule.init_state(params)
    >>> params, state = rule.update(params, params, state)
    >>> [p.shape for p in params]
    [TensorShape([3, 2]), TensorShape([2])]

    References:
        - [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
          section 2.1.
    """

    fits_any_model = True

    def __init__(
        self,
        units: Sequence[int] = (20, 20),
        *,
        preprocessing: float | None = 10.0,
        output_scale: float = 0.01,
        seed: int | None = None,
        **kwargs: Any,
    ):
        # Half-precision gradients would be too coarse to learn from.
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        if preprocessing is not None:
            check_preprocessing(preprocessing)
        check_positive_number(output_scale=output_scale)
        self.units = as_units(units, "the layers")
        self.preprocessing = preprocessing
        self.output_scale = output_scale
        self.seed = as_seed(seed)
        self._build_network()

    def _build_network(self) -> None:
        def seed(i):
            return None if self.seed is None else self.seed + i

        self.cells: list[LSTMWeights] = []
        inputs = 1 if self.preprocessing is None else 2
        for i, units in enumerate(self.units):
            self.cells.append(
                add_lstm(self, f"lstm_{i}", inputs, units, seed(i))
            )
            inputs = units
        initializer = keras.initializers.GlorotUniform(seed(len(self.units)))
        self.readout = Readout(
            self.add_weight(
                name="readout_kernel",
                shape=(inputs, 1),
                initializer=initializer,
            ),
            self.add_weight(
                name="readout_bias", shape=(1,), initializer="zeros"
            ),
        )

    def init_state(self, params: Sequence[tf.Tensor]) -> list[list[tf.Tensor]]:
        """Returns a zero hidden and cell state for each layer.

        Each is `[units, coordinates]`.
        """
        count = coordinates.count(params)
        return [
            [tf.zeros([units, count], self.compute_dtype) for _ in range(2)]
            for units in self.units
        ]

    def update(
        self,
        params: Sequence[tf.Tensor],
        grads: Sequence[tf.Tensor],
        state: list[list[tf.Tensor]],
    ) -> tuple[list[tf.Tensor], list[list[tf.Tensor]]]:
        """Takes one step; see `UpdateRule.update`."""
        x = coordinates.join(grads, self.compute_dtype)
        if self.preprocessing is None:
            x = x[tf.newaxis]
        else:
            x = log_and_sign(x, self.preprocessing, axis=0)
        moves, new_state = recompute(
            _network,
            x,
            state,
            [list(map(_value, weights)) for weights in self.cells],
            list(map(_value, self.readout)),
        )
        moves = coordinates.split(self.output_scale * moves, params)
        moved = [p + m for p, m in zip(params, moves, strict=True)]
        return moved, new_state

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "units": self.units,
            "preprocessing": self.preprocessing,
            "output_scale": self.output_scale,
            "seed": self.seed,
        }


def _value(variable: keras.Variable) -> tf.Tensor:
    return tf.convert_to_tensor(variable)


def _network(x, state, layers, readout):
    """Returns the network's output, `[coordinates]`, and its new state.

    Coordinates are the last axis, which the processor vectorizes.
    """
    new_state = []
    for weights, (hidden, cell) in zip(layers, state, strict=True):
        x, cell = lstm_step(x, hidden, cell, *weights)
        new_state.append([x, cell])
    kernel, bias = readout
    return tf.matmul(kernel, x, transpose_a=True)[0] + bias, new_state
