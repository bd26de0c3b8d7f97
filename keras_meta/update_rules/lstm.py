"""An LSTM over many coordinates at once.

Coordinates are the last axis, which the processor vectorizes. That is why this
is not a `keras.layers.LSTMCell`. Its weights have that layer's layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf


class LSTMWeights(NamedTuple):
    """Weights of an LSTM.

    Attributes:
        kernel: `[inputs, 4 * units]`, with the gates in Keras's order: input,
            forget, new content, output.
        recurrent_kernel: `[units, 4 * units]`.
        bias: `[4 * units]`.
    """

    kernel: keras.Variable
    recurrent_kernel: keras.Variable
    bias: keras.Variable


def add_lstm(
    layer: keras.Layer, name: str, inputs: int, units: int, seed: int | None
) -> LSTMWeights:
    """Adds an LSTM's weights to a layer, initialized as in Keras.

    Args:
        layer: The layer that owns them.
        name: Prefix of their names.
        inputs: Number of inputs.
        units: Number of units.
        seed: Seed of the initial weights.
    """
    initializers = keras.initializers
    return LSTMWeights(
        layer.add_weight(
            name=f"{name}_kernel",
            shape=(inputs, 4 * units),
            initializer=initializers.GlorotUniform(seed),
        ),
        layer.add_weight(
            name=f"{name}_recurrent_kernel",
            shape=(units, 4 * units),
            initializer=initializers.Orthogonal(seed=seed),
        ),
        layer.add_weight(
            name=f"{name}_bias",
            shape=(4 * units,),
            initializer=_forget_nothing,
        ),
    )


def lstm_step(
    x: tf.Tensor,
    hidden: tf.Tensor,
    cell: tf.Tensor,
    kernel: tf.Tensor,
    recurrent_kernel: tf.Tensor,
    bias: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Takes one step.

    Args:
        x: Inputs, `[inputs, coordinates]`.
        hidden: Outputs of the previous step, `[units, coordinates]`.
        cell: Cell state, `[units, coordinates]`.
        kernel: See `LSTMWeights`.
        recurrent_kernel: See `LSTMWeights`.
        bias: See `LSTMWeights`.

    Returns:
        The new `hidden` and `cell`.
    """
    gates = tf.matmul(
        tf.concat([kernel, recurrent_kernel], axis=0),
        tf.concat([x, hidden], axis=0),
        transpose_a=True,
    )
    enter, keep, new, leave = tf.split(gates + bias[:, tf.newaxis], 4, axis=0)
    cell = tf.sigmoid(keep) * cell + tf.sigmoid(enter) * tf.tanh(new)
    return tf.sigmoid(leave) * tf.tanh(cell), cell


def _forget_nothing(shape: Sequence[int], dtype: str) -> tf.Tensor:
    """Returns biases of 1 for the forget gates and 0 for the others."""
    return tf.repeat(tf.constant([0, 1, 0, 0], dtype), shape[0] // 4)
