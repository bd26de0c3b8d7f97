"""Attention to the past."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_positive
from keras_meta.sequence.causal_layer import CausalLayer


@keras.saving.register_keras_serializable("keras_meta")
class CausalAttention(CausalLayer):
    """Appends to each item what it reads of itself and the items before.

    Keys, queries and values are affine functions of the items. Item `t`
    attends to the items `i <= t` with the softmax over `i` of
    `query_t . key_i / sqrt(key_size)`, and appends the mean of their values,
    weighted so. It has one head, and does not know where an item stands.

    Args:
        key_size: Size of keys and queries.
        value_size: Size of values, the number of channels that are appended.
        **kwargs: See `keras.layers.Layer`.

    Raises:
        ValueError: If a size is not positive.

    Example:
    >>> import tensorflow as tf
    >>> layer = CausalAttention(key_size=4, value_size=2)
    >>> x = tf.random.normal([1, 3, 5])
    >>> layer(x).shape
    TensorShape([1, 3, 7])
    >>> (layer.attention(x)[0] > 0).numpy().astype(int)
    array([[1, 0, 0],
           [1, 1, 0],
           [1, 1, 1]])

    References:
        - [Mishra et al., 2018](https://arxiv.org/abs/1707.03141), section 3.
    """

    def __init__(self, key_size: int, value_size: int, **kwargs: Any):
        super().__init__(**kwargs)
        check_positive(key_size=key_size, value_size=value_size)
        self.key_size = int(key_size)
        self.value_size = int(value_size)
        sizes = {"keys": key_size, "queries": key_size, "values": value_size}
        self.keys, self.queries, self.values = (
            keras.layers.Dense(size, name=name, dtype=self.dtype_policy)
            for name, size in sizes.items()
        )

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Creates the weights for items `[sequences, n, c]`."""
        for layer in (self.keys, self.queries, self.values):
            layer.build(input_shape)

    def attention(self, x: tf.Tensor) -> tf.Tensor:
        """Returns how much each item attends to each, `[sequences, n, n]`.

        Rows are those that attend. They sum to 1, and what comes later has
        weight 0.

        Args:
            x: Sequences, `[sequences, n, c]`.
        """
        return self._attention(x, self.keys(x))

    def _attention(self, x: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        logits = self._products(x, keys)
        n = tf.shape(x)[1]
        is_past = tf.range(n)[:, tf.newaxis] >= tf.range(n)
        return tf.nn.softmax(tf.where(is_past, logits, logits.dtype.min))

    def _products(self, x: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
        """Returns the logits, `[sequences, those that attend, keys]`."""
        queries = self.queries(x) / math.sqrt(self.key_size)
        return tf.matmul(queries, keys, transpose_b=True)

    def read(self, x: tf.Tensor) -> tuple[tf.Tensor, tuple[tf.Tensor, ...]]:
        """Returns outputs, keys and values; see `CausalLayer.read`."""
        keys, values = self.keys(x), self.values(x)
        read = tf.matmul(self._attention(x, keys), values)
        return tf.concat([x, read], axis=-1), (keys, values)

    def follow(
        self, x: tf.Tensor, memory: tuple[tf.Tensor, tf.Tensor]
    ) -> tf.Tensor:
        """Returns outputs for items that come next; see `CausalLayer`."""
        keys, values = memory
        own = tf.reduce_sum(self.queries(x) * self.keys(x), -1, keepdims=True)
        own = own / math.sqrt(self.key_size)
        logits = tf.concat([self._products(x, keys), own], axis=-1)
        attention = tf.nn.softmax(logits)
        read = tf.matmul(attention[..., :-1], values)
        read += attention[..., -1:] * self.values(x)
        return tf.concat([x, read], axis=-1)

    def compute_output_shape(
        self, input_shape: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Returns the shape of the outputs."""
        return (*input_shape[:-1], input_shape[-1] + self.value_size)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "key_size": self.key_size,
            "value_size": self.value_size,
        }
