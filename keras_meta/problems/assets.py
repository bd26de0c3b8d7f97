"""Files of what the config of a problem does not hold."""

from __future__ import annotations

import os
from collections.abc import Iterator
from collections.abc import Sequence

import keras
import tensorflow as tf

_TENSORS = "data"
_WEIGHTS = "model.weights.h5"
_LAYERS = "layers"


def save_tensors(folder: str, tensors: Sequence[tf.Tensor]) -> None:
    """Writes tensors of any types.

    Args:
        folder: A folder that exists.
        tensors: What to write.
    """
    tf.raw_ops.SaveV2(
        prefix=os.path.join(folder, _TENSORS),
        tensor_names=[str(i) for i in range(len(tensors))],
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors),
    )


def load_tensors(folder: str) -> list[tf.Tensor]:
    """Reads what `save_tensors` wrote.

    Args:
        folder: The folder.
    """
    reader = tf.train.load_checkpoint(os.path.join(folder, _TENSORS))
    types = reader.get_variable_to_dtype_map()
    # Tensors are made outside of any graph, as they are kept.
    with tf.init_scope():
        return [
            tf.convert_to_tensor(reader.get_tensor(str(i)), types[str(i)])
            for i in range(len(types))
        ]


def save_model(folder: str, model: keras.Model) -> None:
    """Writes the weights and the assets of a model's layers.

    Args:
        folder: A folder that exists.
        model: The model.
    """
    model.save_weights(os.path.join(folder, _WEIGHTS), overwrite=True)
    for layer, path in _layers_with_assets(folder, model):
        os.makedirs(path, exist_ok=True)
        layer.save_assets(path)


def load_model(folder: str, model: keras.Model) -> None:
    """Reads what `save_model` wrote.

    Args:
        folder: The folder.
        model: A model of the same config.
    """
    model.load_weights(os.path.join(folder, _WEIGHTS))
    for layer, path in _layers_with_assets(folder, model):
        layer.load_assets(path)


def _layers_with_assets(
    folder: str, model: keras.Model
) -> Iterator[tuple[keras.Layer, str]]:
    """Yields layers that have assets, each with a folder of its own."""
    for i, layer in enumerate(model._flatten_layers()):
        if hasattr(layer, "save_assets"):
            yield layer, os.path.join(folder, _LAYERS, str(i))
