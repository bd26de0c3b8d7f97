"""Where distilled examples begin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_meta.batching.output_specs import OutputSpecs
from keras_meta.checks import check_finite_values


def class_labels(
    model: keras.Model, steps: int, per_class: int, one_hot: bool
) -> np.ndarray:
    """Returns the labels of all classes, for each step.

    Args:
        model: Has an output for each class.
        steps: Number of steps.
        per_class: Examples of each class in a step.
        one_hot: Whether labels are one-hot instead of class numbers.

    Returns:
        `[steps, classes * per_class]`, or `[..., classes]` if one-hot.

    Raises:
        ValueError: If the model has no outputs for classes.
    """
    specs = keras.KerasTensor([None, *_input_shape(model)])
    classes = OutputSpecs(model).ways(specs, axes=1)
    if classes is None or classes < 2:
        raise ValueError(
            "`y` must be given, [steps, n, ...], unless the model has an "
            f"output for each class. Received: y=None, model={model.name!r}."
        )
    numbers = np.repeat(np.arange(classes), per_class)
    labels = np.eye(classes)[numbers] if one_hot else numbers
    return np.stack([labels] * steps)


def checked_labels(y: Any, steps: int) -> np.ndarray:
    """Returns the labels as an array.

    Args:
        y: What should be labels, `[steps, n, ...]`.
        steps: Number of steps.

    Raises:
        ValueError: If they are not.
    """
    y = np.asarray(y)
    check_finite_values(y=y)
    if y.ndim < 2 or y.shape[0] != steps:
        raise ValueError(
            "`y` must have the labels of the examples of each step, "
            f"[steps, n, ...]. Received: y.shape={y.shape}, steps={steps}"
        )
    return y


def checked_inputs(
    x: Any, model: keras.Model, leading: Sequence[int], seed: int
) -> np.ndarray:
    """Returns the inputs as an array.

    Args:
        x: What should be inputs, `[steps, n, ...]`, or `None` to draw them.
        model: What should take them.
        leading: `[steps, n]`.
        seed: Seed of what is drawn.

    Raises:
        ValueError: If they do not fit the model or the labels.
    """
    shape = (*leading, *_input_shape(model, x))
    if x is None:
        draw = keras.initializers.RandomNormal(0.0, 1.0, seed=seed)
        return np.asarray(draw(shape, keras.config.floatx()))
    x = np.asarray(x)
    check_finite_values(x=x)
    if x.shape != shape:
        raise ValueError(
            "`x` must have an input for each label, [steps, n, ...], of the "
            f"shape that the model takes. Received: x.shape={x.shape}. "
            f"Expected: {shape}."
        )
    return x


def _input_shape(model: keras.Model, x: Any = None) -> list[int]:
    """Returns the shape of one input.

    Args:
        model: The model.
        x: Inputs that tell what the model leaves open, `[steps, n, ...]`.

    Raises:
        ValueError: If inputs cannot be learned, or the shape is not known.
    """
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) > 1:
        raise ValueError(
            "`model` must have one input. Received: "
            f"model={model.name!r} with {len(inputs)}."
        )
    if inputs and not tf.as_dtype(inputs[0].dtype).is_floating:
        raise ValueError(
            "`model` must have an input of real numbers, which can be learned "
            f"by gradient. Received: model={model.name!r} with an input of "
            f"type {inputs[0].dtype}. Distill the outputs of its embedding "
            "instead."
        )
    given = list(np.shape(x)[2:])
    shape = list(inputs[0].shape[1:]) if inputs else [None] * len(given)
    if x is not None and len(given) == len(shape):
        shape = [
            b if a is None else a for a, b in zip(shape, given, strict=True)
        ]
    if not shape or None in shape:
        raise ValueError(
            "`x` must be given, [steps, n, ...], if the model does not say "
            f"what shape its inputs have. Received: x=None, and "
            f"model={model.name!r}."
        )
    return [size for size in shape if size is not None]
