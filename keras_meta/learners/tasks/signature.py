"""The serving signature of a meta-learner."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_meta.learners.tasks.texts import nested_inputs
from keras_meta.learners.tasks.texts import output_shape


def default_signature(
    model: keras.Model, sparse_labels: bool
) -> dict[str, Any]:
    """Returns the specs of support and query sets for a model.

    Args:
        model: A built model.
        sparse_labels: Whether labels are class numbers. These are int32, with
            the shape of the model's outputs without the last axis. Others
            have the shape of the outputs and Keras's `floatx`.

    Raises:
        ValueError: If the model's input shape is unknown.
    """
    _require_inputs(model)
    shape = output_shape(model) or model.outputs[0].shape
    if sparse_labels:
        shape, dtype = shape[:-1], tf.int32
    else:
        # Labels stay in full precision even if predictions are not.
        dtype = keras.config.floatx()
    labels = tf.TensorSpec([None, *shape], dtype, name="support_y")
    return {
        "support_x": _nested(model, "support_x"),
        "support_y": labels,
        "query_x": _nested(model, "query_x"),
    }


def signature_of_classes(model: keras.Model) -> dict[str, Any]:
    """Returns the specs of support and query sets with class numbers.

    Args:
        model: The model that takes the examples.

    Raises:
        ValueError: If the model's input shape is unknown.
    """
    _require_inputs(model)
    return {
        "support_x": _nested(model, "support_x"),
        "support_y": tf.TensorSpec([None, None], tf.int32, name="support_y"),
        "query_x": _nested(model, "query_x"),
    }


def _require_inputs(model: keras.Model) -> None:
    if not getattr(model, "inputs", None):
        raise ValueError(
            f"The input shape of model '{model.name}' is unknown, so "
            "`export` needs `input_signature`: a dict of tf.TensorSpec with "
            "the keys 'support_x' and 'query_x' ([tasks, examples, ...]) and "
            "'support_y' ([tasks, examples] or [tasks, examples, ...])."
        )


def _nested(model: keras.Model, name: str) -> Any:
    structure = nested_inputs(model)
    if not keras.tree.is_nested(structure):
        return _spec(structure, name)
    return keras.tree.map_structure(
        lambda x: _spec(x, f"{name}_{x.name}"), structure
    )


def _spec(x: keras.KerasTensor, name: str) -> tf.TensorSpec:
    return tf.TensorSpec([None, *x.shape], x.dtype, name=name)
