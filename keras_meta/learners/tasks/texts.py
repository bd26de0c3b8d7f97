"""What is different about models that take texts."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def has_texts(values: Any) -> bool:
    """Whether some of nested tensors, or of their specs, hold strings."""
    return any(
        getattr(x, "dtype", None) in (tf.string, "string")
        for x in keras.tree.flatten(values)
    )


def takes_texts(model: keras.Model) -> bool:
    """Whether a model is known to have an input of strings."""
    return has_texts(getattr(model, "inputs", None) or [])


def output_shape(model: keras.Model) -> tuple[int | None, ...] | None:
    """Returns the shape of a model's only output, or `None` if unknown.

    Args:
        model: A built model.
    """
    shape = getattr(model, "output_shape", None)
    if not isinstance(shape, tuple):
        return None
    if not takes_texts(model):
        return shape
    # Keras infers one axis too many after a bag of words.
    traced = tf.function(
        lambda x: model(x, training=False), autograph=False
    ).get_concrete_function(
        keras.tree.map_structure(
            lambda x: tf.TensorSpec(x.shape, x.dtype), nested_inputs(model)
        )
    )
    return tuple(traced.structured_outputs.shape)


def nested_inputs(model: keras.Model) -> Any:
    """Returns a model's symbolic inputs, nested as it expects inputs.

    Args:
        model: A model whose `inputs` are known.
    """
    return getattr(model, "_inputs_struct", model.inputs[0])
