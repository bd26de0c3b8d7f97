"""Copying a Keras model."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import tensorflow as tf


def clone_model(
    model: keras.Model, values: Mapping[int, tf.Tensor]
) -> keras.Model:
    """Returns an independent copy of a built model.

    Args:
        model: The model.
        values: Maps `id(variable)` to a value that the copy has in place of
            the variable's own.

    Raises:
        ValueError: If the model cannot be made from its config.
    """
    classes = {
        type(layer).__name__: type(layer) for layer in model._flatten_layers()
    }
    try:
        config = keras.saving.serialize_keras_object(model)
        # A copy is not compiled: losses of one's own need not be registered.
        config.pop("compile_config", None)
        clone = keras.saving.deserialize_keras_object(
            config, custom_objects=classes, safe_mode=False
        )
        pairs = list(zip(model.variables, clone.variables, strict=True))
    except Exception as error:
        raise ValueError(
            f"Model '{model.name}' ({type(model).__name__}) cannot be copied "
            "from its config. Give the class `get_config` and `from_config`, "
            "which make a built model; see keras.Model.get_config. What "
            f"failed: {error}"
        ) from error
    for original, copy in pairs:
        value = values.get(id(original))
        copy.assign(original.value if value is None else value)
    return clone
