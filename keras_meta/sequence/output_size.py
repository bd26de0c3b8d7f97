"""How large an encoder's output is."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def output_size(encoder: Any) -> int:
    """Returns the number of entries of an encoder's only output.

    Args:
        encoder: A built Keras model.

    Raises:
        ValueError: If there are several outputs, or the size is unknown.

    Example:
    >>> import keras
    >>> layers = [keras.Input([8]), keras.layers.Reshape([2, 4])]
    >>> output_size(keras.Sequential(layers))
    8
    """
    shape = getattr(encoder, "output_shape", None)
    if isinstance(shape, tuple):
        size = tf.TensorShape(shape[1:]).num_elements()
        if size is not None:
            return size
    raise ValueError(
        "`encoder` must be a built Keras model with one output of a known "
        f"size. Received: a {type(encoder).__name__} with output_shape="
        f"{shape}. Make it a keras.Sequential with a keras.Input, or a "
        "functional model."
    )
