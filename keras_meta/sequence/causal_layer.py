"""The base of layers whose outputs depend on no later item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


class CausalLayer(keras.layers.Layer):
    """Base class of layers of sequences that look back only.

    The output for an item depends on this item and those before it. So what a
    layer has read can be kept, and an item that follows costs one item, not
    the whole sequence.

    A subclass implements `read` and `follow`, and creates its weights in
    `build`.

    Args:
        **kwargs: See `keras.layers.Layer`.

    Example:
    A layer that appends the mean of the items so far.

    >>> import keras_meta
    >>> import tensorflow as tf
    >>>
    >>> class Means(keras_meta.sequence.CausalLayer):
    ...     def read(self, x):
    ...         sums = tf.cumsum(x, axis=1)
    ...         counts = tf.range(1.0, x.shape[1] + 1)[:, tf.newaxis]
    ...         memory = sums[:, -1:], counts[-1]
    ...         return tf.concat([x, sums / counts], axis=-1), memory
    ...
    ...     def follow(self, x, memory):
    ...         sums, count = memory
    ...         return tf.concat([x, (sums + x) / (count + 1)], axis=-1)
    >>>
    >>> layer = Means()
    >>> x = tf.constant([[[1.0], [3.0], [8.0]]])
    >>> layer(x)[0, 2].numpy()
    array([8., 4.], dtype=float32)
    >>> _, memory = layer.read(x[:, :2])
    >>> layer.follow(x[:, 2:], memory)[0, 0].numpy()
    array([8., 4.], dtype=float32)
    """

    def read(self, x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        """Returns the outputs, and what items that follow need.

        Args:
            x: Sequences of `n` items, `[sequences, n, c]`.

        Returns:
            The outputs `[sequences, n, c']`, and nested tensors
            `[sequences, ...]` for `follow`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `read`."
        )

    def follow(self, x: tf.Tensor, memory: Any) -> tf.Tensor:
        """Returns the outputs for items that each come next.

        The items do not see each other: each one follows the sequence that
        was read.

        Args:
            x: Such items, `[sequences, q, c]`.
            memory: What `read` returned besides the outputs.

        Returns:
            The outputs, `[sequences, q, c']`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `follow`."
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the outputs for sequences, `[sequences, n, c']`.

        Args:
            inputs: Sequences, `[sequences, n, c]`.
        """
        return self.read(inputs)[0]


def build_all(layers: Sequence[CausalLayer], size: int) -> int:
    """Creates the weights of layers, each on top of the one before.

    Args:
        layers: The layers.
        size: Number of channels of the items.

    Returns:
        The number of channels of the last layer's outputs.
    """
    shape = (None, None, size)
    for layer in layers:
        layer.build(shape)
        shape = layer.compute_output_shape(shape)
    return shape[-1]


def read_through(
    layers: Sequence[CausalLayer], x: tf.Tensor
) -> tuple[tf.Tensor, list[Any]]:
    """Reads sequences with layers on top of each other.

    Args:
        layers: The layers.
        x: The sequences, `[sequences, n, c]`.

    Returns:
        The last layer's outputs, and a memory of each layer.
    """
    memories = []
    for layer in layers:
        x, memory = layer.read(x)
        memories.append(memory)
    return x, memories


def follow_through(
    layers: Sequence[CausalLayer], x: tf.Tensor, memories: Sequence[Any]
) -> tf.Tensor:
    """Returns the last layer's outputs for items that each come next.

    Args:
        layers: The layers.
        x: The items, `[sequences, q, c]`.
        memories: What `read_through` returned.
    """
    for layer, memory in zip(layers, memories, strict=True):
        x = layer.follow(x, memory)
    return x
