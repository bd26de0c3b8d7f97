"""Checks of the learners' arguments."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np

from keras_meta.checks import check_at_least
from keras_meta.checks import check_choice
from keras_meta.checks import check_number_at_least
from keras_meta.checks import describe
from keras_meta.checks import is_finite_number
from keras_meta.checks import is_number
from keras_meta.inner.inner_loss import InnerLoss
from keras_meta.update_rules.gradient_descent import GradientDescent
from keras_meta.update_rules.update_rule import UpdateRule

_BATCH_STATISTICS = ("batch", "support", "running")


def check_arguments(
    model: Any,
    steps: Any,
    evaluation_steps: Any,
    proximal: Any,
    batch_statistics: Any,
) -> None:
    """Checks the arguments of every learner; raises on a bad one."""
    check_model(model)
    check_at_least(1, steps=steps)
    if evaluation_steps is not None:
        check_at_least(0, evaluation_steps=evaluation_steps)
    check_number_at_least(0, proximal=proximal)
    check_choice("batch_statistics", batch_statistics, _BATCH_STATISTICS)


def check_model(model: Any) -> None:
    """Checks the model of a learner; raises on a bad one."""
    check_is_built("model", model)
    half = [x.name for x in model._flatten_layers() if _is_float16(x)]
    if half:
        raise ValueError(
            "`model` computes in float16, where inner gradients underflow "
            f"unscaled, in the layers {half}. Use the dtype policy "
            "'mixed_bfloat16'."
        )
    stateful = [x.name for x in model._flatten_layers() if _is_stateful(x)]
    if stateful:
        warnings.warn(
            f"The layers {stateful} of `model` have stateful=True, which a "
            "meta-learner ignores: tasks do not depend on each other, so "
            "every call starts from the same state. Use stateful=False.",
            stacklevel=4,
        )


def check_is_built(name: str, model: Any) -> None:
    """Requires a built Keras model; raises otherwise.

    Args:
        name: Name of the argument.
        model: Its value.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`{name}` must be a keras.Model. Received: "
            f"{name}={describe(model)}"
        )
    unbuilt = [x.name for x in model._flatten_layers() if _is_unbuilt(x)]
    if unbuilt:
        raise ValueError(
            f"`{name}` must be built; these layers are not: {unbuilt}. Call "
            "the model once on an example batch, or start it with "
            "keras.Input."
        )


def as_update_rule(update_rule: Any) -> UpdateRule:
    """Returns an update rule, or raises.

    Args:
        update_rule: An update rule, or a number for `GradientDescent`.
    """
    if is_number(update_rule):
        if not is_finite_number(update_rule):
            raise ValueError(
                "`update_rule` must be an update rule, or a finite number for "
                f"its rate. Received: update_rule={describe(update_rule)}"
            )
        return GradientDescent(update_rule)
    if not isinstance(update_rule, UpdateRule):
        raise TypeError(
            "`update_rule` must be an update rule such as "
            "keras_meta.GradientDescent(0.1), or a number for its rate. "
            f"Received: update_rule={describe(update_rule)}. Keras optimizers "
            "change variables in place and cannot be differentiated."
        )
    return update_rule


def as_inner_loss(loss: Any) -> InnerLoss:
    """Returns the loss of the inner loop, or raises.

    Args:
        loss: Whatever `compile` takes as a loss.
    """
    if isinstance(loss, (dict, list, tuple)):
        raise ValueError(
            "The inner loop needs one loss for all outputs. Received: "
            f"loss={describe(loss)}. Pass `inner_loss=`, a function of "
            "(y_true, y_pred)."
        )
    return InnerLoss(loss)


def as_step_weights(step_weights: Any, steps: int) -> np.ndarray:
    """Returns a weight for each step; raises on bad ones."""
    try:
        weights = np.asarray(step_weights)
        is_fine = weights.dtype.kind in "iuf" and weights.shape == (steps,)
    except (TypeError, ValueError):
        is_fine = False
    if not is_fine or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ValueError(
            f"`step_weights` must be {steps} finite numbers of at least 0, "
            f"one for each of steps={steps}, or one of its other choices. "
            f"Received: step_weights={describe(step_weights)}"
        )
    return weights.astype(float)


def _is_unbuilt(layer: keras.Layer) -> bool:
    # Keras's default `build` adds no weights. Text layers use lookup layers
    # that have it without ever building them.
    builds = type(layer).build is not keras.Layer.build
    return builds and not layer.built


def warn_of_low_rank(model: keras.Model) -> None:
    """Warns that a file will not keep the weights of LoRA apart."""
    layers = model._flatten_layers()
    adapters = [x.name for x in layers if getattr(x, "lora_enabled", False)]
    if adapters:
        warnings.warn(
            f"Keras saves the layers {adapters} with their LoRA weights "
            "merged into the kernel. After loading, the LoRA weights are "
            "zero and cannot learn. To continue training, keep their values "
            "and assign them after loading.",
            stacklevel=3,
        )


def _is_stateful(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.layers.RNN) and layer.stateful


def _is_float16(layer: keras.Layer) -> bool:
    return layer.compute_dtype == "float16"
