"""What a learner requires of its inner loss."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching.output_specs import OutputSpecs
from keras_meta.checks import describe
from keras_meta.inner.inner_loss import InnerLoss
from keras_meta.inner.learned_loss import LearnedLoss
from keras_meta.learners.arguments import as_inner_loss
from keras_meta.learners.tasks.texts import output_shape


def is_learned(inner_loss: Any) -> bool:
    """Whether an inner loss has weights to learn."""
    return isinstance(inner_loss, keras.Layer) and bool(
        inner_loss.trainable_variables
    )


def prepare_inner_loss(inner_loss: Any, model: keras.Model) -> None:
    """Checks an inner loss; builds it if it is a layer.

    Args:
        inner_loss: A loss, a function or a layer.
        model: The model whose predictions it compares with labels.

    Raises:
        ValueError: If it is no loss, or a layer that cannot be learned.
    """
    if isinstance(inner_loss, LearnedLoss):
        raise ValueError(
            "A learner takes the layer of a learned loss, which it can save "
            f"and train. Received: inner_loss={describe(inner_loss)}. Pass "
            "inner_loss=loss.layer, with loss.layer.trainable = False to "
            "leave it as it is."
        )
    loss = as_inner_loss(inner_loss).layer_loss
    if loss is None:
        return
    if not loss.layer.built:
        stand_ins = _stand_ins(model)
        if stand_ins is None:
            raise ValueError(
                f"The output shape of model '{model.name}' is unknown or not "
                "that of one output, so `inner_loss` must come built. "
                f"Received: inner_loss={describe(loss.layer)}, which is not. "
                "Call it once on example labels and predictions."
            )
        loss.build(*stand_ins)
    if not loss.layer.trainable:
        # Made with `trainable=False`, a layer does not freeze those within,
        # and Keras ignores an attribute that is set to what it is.
        for layer in loss.layer._flatten_layers(include_self=False):
            layer.trainable = False
    shared = {id(v) for v in model.variables}
    both = [v.path for v in loss.layer.variables if id(v) in shared]
    if both:
        raise ValueError(
            "`inner_loss` must not share weights with `model`, which adapt. "
            f"Received: a layer that shares {both}."
        )


def refuse_layers(loss: Any) -> None:
    """Refuses layers where an outer loss is expected.

    Args:
        loss: What `compile` took.

    Raises:
        ValueError: If it holds a layer.
    """
    if any(isinstance(x, keras.Layer) for x in keras.tree.flatten(loss)):
        raise ValueError(
            "A layer that is compiled as the outer loss would be trained to "
            f"return as little as possible. Received: loss={describe(loss)}. "
            "Pass keras_meta.LearnedLoss(layer), which does not learn, or "
            "inner_loss=layer to the learner."
        )


def compares_class_numbers(loss: Any) -> bool:
    """Whether an outer loss is one of class numbers.

    Args:
        loss: What `compile` took.
    """
    is_one = isinstance(loss, str) or callable(loss)
    return is_one and InnerLoss(loss).is_sparse


def takes_class_numbers(
    loss: InnerLoss, labels: tf.Tensor, outputs: Any
) -> bool:
    """Whether an inner loss takes the labels of support sets for classes.

    Args:
        loss: The inner loss.
        labels: The labels, `[tasks, n, ...]`.
        outputs: Specs of the model's outputs, `[None, ...]` each, or `None`
            if they are unknown.
    """
    if loss.is_sparse:
        return True
    if outputs is None or keras.tree.is_nested(outputs):
        return False
    return loss.takes_as_class_numbers(
        labels.shape[1:], tf.TensorShape(outputs.shape)
    )


def _stand_ins(model: keras.Model) -> tuple[keras.KerasTensor, Any] | None:
    """Returns what stands for a model's only output, and for its inputs.

    They are `None` together if the output is unknown.
    """
    shape = output_shape(model)
    if shape is not None:
        features = getattr(model, "_inputs_struct", model.inputs[0])
    else:
        # Keras knows on what a subclassed model was built.
        built_on = (model.get_build_config() or {}).get("input_shape")
        if not isinstance(built_on, tuple):
            return None
        built_on = (None, *built_on[1:])
        features = keras.KerasTensor(built_on, keras.config.floatx())
        specs = OutputSpecs(model).of(features, axes=1)
        if specs is None or keras.tree.is_nested(specs):
            return None
        shape = specs.shape
    # Losses are computed in at least float32.
    dtype = keras.backend.result_type(model.compute_dtype, "float32")
    return keras.KerasTensor((None, *shape[1:]), dtype), features
