"""The network that a search has chosen."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras

from keras_meta._keras import is_made_of_layers
from keras_meta.architectures.mixed_operation import MixedOperation
from keras_meta.architectures.mixed_operation import mixed_operations
from keras_meta.checks import check_bool
from keras_meta.checks import describe
from keras_meta.hyperparameters.hyperparameter import shared_by_name


def derive(
    model: keras.Model,
    choices: Mapping[str, str] | None = None,
    *,
    keep_weights: bool = False,
) -> keras.Model:
    """Replaces each `MixedOperation` of a model by one of its candidates.

    The result is a new model, which shares nothing with the old one. Nothing
    of it needs a search any more: train it, or go on training it, as any
    Keras model.

    Args:
        model: A functional or sequential model. Models within it may be
            either as well, but a mixed operation may not be hidden in a layer
            of another kind.
        choices: A dict from names of mixed operations to names of their
            candidates. The others take their strongest candidate, but no
            `Zero`; see `MixedOperation.strongest`.
        keep_weights: Whether weights are copied. Otherwise they are new:
            weights that were trained in a mixture are a poor start.

    Raises:
        TypeError: If `model` is no Keras model, or `choices` no dict.
        ValueError: If there is no mixed operation, a choice does not exist,
            or the model is subclassed.

    Example:
    >>> import keras_meta
    >>> x = keras.Input([4])
    >>> layers = [
    ...     keras.layers.Identity(name="skip"),
    ...     keras.layers.Dense(4, name="dense"),
    ... ]
    >>> mixed = keras_meta.MixedOperation(layers, name="choice")
    >>> model = keras.Model(x, keras.layers.Dense(1)(mixed(x)))
    >>> derived = keras_meta.derive(model, {"choice": "dense"})
    >>> [layer.name for layer in derived.layers[1:-1]]
    ['choice_dense']
    """
    check_bool(keep_weights=keep_weights)
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a keras.Model. Received: {describe(model)}"
        )
    chosen = _chosen(model, choices)
    copies = []

    def copy(layer, name=None):
        if isinstance(layer, MixedOperation):
            candidate = chosen[layer.name]
            return copy(candidate, f"{layer.name}_{candidate.name}")
        if _holds_mixed(layer):
            made = _clone(layer, copy)
            made.name = name or layer.name
            return made
        config = layer.get_config()
        made = type(layer).from_config(
            config if name is None else {**config, "name": name}
        )
        copies.append((layer, made))
        return made

    # One regularizer's strength may be that of several layers.
    with shared_by_name():
        derived = _clone(model, copy)
    for layer, made in copies:
        if keep_weights and isinstance(layer, keras.Layer):
            made.set_weights(layer.get_weights())
    return derived


def architecture(model: keras.Model) -> dict[str, str]:
    """Returns the name of the candidate that `derive` chooses.

    Args:
        model: A Keras model.

    Returns:
        A dict from names of mixed operations to names of candidates.
    """
    return {
        mixed.name: mixed.candidates[int(mixed.strongest())].name
        for mixed in mixed_operations(model)
    }


def _chosen(
    model: keras.Model, choices: Mapping[str, str] | None
) -> dict[str, keras.Layer]:
    """Returns the candidate that each mixed operation is replaced by."""
    mixed = mixed_operations(model)
    if not mixed:
        raise ValueError(
            "`model` must have a keras_meta.MixedOperation. Received: "
            f"model={model.name!r}, which has none to replace."
        )
    by_name = {
        m.name: {candidate.name: candidate for candidate in m.candidates}
        for m in mixed
    }
    _check_names(mixed, by_name)
    choices = {} if choices is None else choices
    if not isinstance(choices, Mapping):
        raise TypeError(
            "`choices` must be a dict from names of mixed operations to names "
            f"of their candidates. Received: choices={describe(choices)}"
        )
    for name, choice in choices.items():
        if name not in by_name or choice not in by_name[name]:
            known = {name: [*found] for name, found in by_name.items()}
            raise ValueError(
                "`choices` must map names of mixed operations to names of "
                f"their candidates. Received: {name!r}: {choice!r}. Known "
                f"are {known}."
            )
    names = {**architecture(model), **choices}
    return {name: by_name[name][choice] for name, choice in names.items()}


def _check_names(
    mixed: Sequence[MixedOperation], by_name: Collection[str]
) -> None:
    if len(by_name) < len(mixed):
        names = [m.name for m in mixed]
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(
            "Mixed operations must have names of their own. Received: several "
            f"of the names {twice}."
        )


def _holds_mixed(layer: Any) -> bool:
    is_layer = isinstance(layer, keras.Layer)
    return is_layer and bool(mixed_operations(layer))


def _clone(model: Any, copy: Callable[[Any], Any]) -> keras.Model:
    """Copies a model layer by layer."""
    if not is_made_of_layers(model):
        raise ValueError(
            "Mixed operations can be replaced in functional and sequential "
            f"models alone. Received: {model.name!r}, a "
            f"{type(model).__name__}, which holds one. Build it as a "
            "keras.Model(inputs, outputs)."
        )
    return keras.models.clone_model(model, clone_function=copy)
