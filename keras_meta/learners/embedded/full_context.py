"""Embeddings of a task's examples in the light of each other."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("keras_meta")
class FullContext(keras.layers.Layer):
    """Embeds support examples and queries in the context of a support set.

    A bidirectional LSTM reads the support set in the order in which it is
    given, and its outputs in both directions are added to each embedding. A
    query reads the result `steps` times: an LSTM gets the embedded query and
    what the last state attends to, and the query is added to each of its
    states.

    Args:
        steps: How many times a query reads the support set.
        **kwargs: See `keras.layers.Layer`.

    References:
        - [Vinyals et al., 2016](https://arxiv.org/abs/1606.04080), appendix
          A.1 and A.2.
    """

    def __init__(self, steps: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.steps = steps

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Creates the LSTMs for embeddings `[tasks, n, d]`."""
        size = input_shape[-1]
        self.reader = keras.layers.Bidirectional(
            keras.layers.LSTM(size, return_sequences=True, use_cudnn=False),
            merge_mode="sum",
        )
        self.reader.build((None, None, size))
        self.cell = keras.layers.LSTMCell(size)
        self.cell.build((None, 2 * size))
        self.built = True

    def of_support(self, x: tf.Tensor) -> tf.Tensor:
        """Returns support sets in context, `[tasks, n, d]`.

        Args:
            x: Embedded support sets, `[tasks, n, d]`.
        """
        return x + self.reader(x)

    def of_queries(self, x: tf.Tensor, support: tf.Tensor) -> tf.Tensor:
        """Returns queries in context, `[tasks, q, d]`.

        Args:
            x: Embedded queries, `[tasks, q, d]`.
            support: What `of_support` returned.
        """
        shape, size = tf.shape(x), x.shape[-1]
        state, read = tf.zeros_like(x), tf.zeros_like(x)
        carry = tf.reshape(tf.zeros_like(x), [-1, size])
        for _ in range(self.steps):
            inputs = tf.reshape(tf.concat([x, read], -1), [-1, 2 * size])
            before = tf.reshape(state, [-1, size])
            output, (_, carry) = self.cell(inputs, [before, carry])
            state = tf.reshape(output, shape) + x
            attention = tf.matmul(state, support, transpose_b=True)
            read = tf.matmul(tf.nn.softmax(attention), support)
        return state

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "steps": self.steps}
