"""Where the batch axis is, and layers that forget how long it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_meta._keras import Functional
from keras_meta.batching.annotations import map_annotated
from keras_meta.batching.layer_rules import find_rule
from keras_meta.batching.task_scope import TaskScope
from keras_meta.batching.task_scope import outside

# Sizes that tell a batch axis from an axis that has one of them by chance.
_STAND_IN_SIZES = (5, 7)
_OPEN_SIZE = 2
# Layers without weights that keep the batch axis where it is.
_PLAIN_LAYERS = (
    keras.layers.InputLayer,
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.ELU,
    keras.layers.Softmax,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Rescaling,
    keras.layers.Add,
    keras.layers.AveragePooling2D,
    keras.layers.MaxPooling2D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
)


def is_batched_throughout(layer: keras.Layer) -> bool:
    """Whether the batch is certainly the first axis of all tensors in a layer.

    That holds for sequential and functional models of common layers with
    Keras's own activations. Nothing is known about layers that call others,
    operations of `keras.ops`, and the user's own code.

    Args:
        layer: A layer or model.
    """
    if "call" in vars(layer):
        return False
    if type(layer) is keras.Sequential:
        return all(map(is_batched_throughout, layer.layers))
    if type(layer) is Functional:
        return all(
            isinstance(x, keras.Layer) and is_batched_throughout(x)
            for x in layer.operations
        )
    is_known = type(layer) in _PLAIN_LAYERS or find_rule(layer) is not None
    return is_known and _is_of_keras(getattr(layer, "activation", None))


def _is_of_keras(activation: Callable | None) -> bool:
    name = getattr(activation, "__name__", "")
    return activation is None or (
        getattr(keras.activations, name, None) is activation
    )


def with_batch_size(
    outputs: Any, layer_call: Callable, scope: TaskScope, arguments: Any
) -> Any:
    """Gives a layer's outputs the batch's static size again.

    Splitting texts, for instance, leaves the size open, so that the axis could
    be one of something else. So the layer is tried on batches of zeros: if
    its outputs are as long as those, their first axis is the batch.
    TensorFlow checks that again whenever the outputs are computed.

    Args:
        outputs: The layer's outputs, nested tensors.
        layer_call: The layer's `call`.
        scope: The active scope.
        arguments: What the layer was called with, `(args, kwargs)`.
    """
    is_known = scope.batch is None or not any(
        map(_is_open, keras.tree.flatten(outputs))
    )
    if is_known or not _keeps_batch_axis(layer_call, scope, arguments):
        return outputs
    return keras.tree.map_structure(
        lambda y: _with_size(y, scope.batch) if _is_open(y) else y, outputs
    )


def _is_open(y: Any) -> bool:
    is_dense = isinstance(y, tf.Tensor)
    return is_dense and bool(y.shape.rank) and y.shape[0] is None


def _with_size(y: tf.Tensor, batch: int) -> tf.Tensor:
    return map_annotated(lambda x: tf.ensure_shape(x, [batch, *x.shape[1:]]), y)


def _keeps_batch_axis(layer_call, scope: TaskScope, arguments: Any) -> bool:
    """Whether all outputs of a layer are as long as what it is given."""
    flat = keras.tree.flatten(arguments)
    if not any(map(scope.has_batch_axis, flat)):
        return False

    def lengths(batch: int) -> list[int]:
        args, kwargs = keras.tree.map_structure(
            lambda x: _stand_in(x, scope, batch), arguments
        )
        outputs = keras.tree.flatten(layer_call(*args, **kwargs))
        return [y.shape[0] for y in outputs]

    with outside():
        try:
            return all(set(lengths(n)) == {n} for n in _STAND_IN_SIZES)
        # Zeros may not be valid input. Then nothing is known about the layer.
        except Exception:
            return False


def _stand_in(x: Any, scope: TaskScope, batch: int) -> Any:
    if not tf.is_tensor(x):
        return x
    shape = [_OPEN_SIZE if n is None else n for n in x.shape]
    if scope.has_batch_axis(x):
        shape[0] = batch
    return tf.zeros(shape, x.dtype)
