"""The operation that cuts a connection."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable("keras_meta")
class Zero(keras.layers.Layer):
    """Returns zeros of the shape of its input: no connection.

    As a candidate of a `MixedOperation` it lets a search weaken a connection
    as a whole. `derive` never chooses it by itself.

    Example:
    >>> Zero()(keras.ops.ones([1, 2]))
    <tf.Tensor: shape=(1, 2), dtype=float32, numpy=array([[0., 0.]], ...)>
    """

    def build(self, input_shape: Any) -> None:
        """Has no weights."""

    def call(self, inputs: Any) -> Any:
        """Returns zeros."""
        return keras.ops.zeros_like(inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape of the input."""
        return input_shape
