"""Choosing which variables adapt."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras

from keras_meta.checks import describe

_NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
)


def select_adapted(
    model: keras.Model,
    adapt: str | Sequence | Callable[[keras.Variable], bool],
) -> list[keras.Variable]:
    """Returns the trainable variables that the inner loop adapts.

    Args:
        model: A built model.
        adapt: `"all"`; `"head"`, the last layer that has trainable weights;
            `"normalization"`, the weights of normalization layers; a list of
            layers or layer names; or a predicate on variables.

    Raises:
        ValueError: If nothing is selected or a layer is unknown.
    """
    trainable = model.trainable_variables
    if not trainable:
        raise ValueError(
            f"Model '{model.name}' has no trainable weights, so nothing can "
            "be adapted. Set `trainable = True` on the layers to be learned."
        )
    selected = _select(model, adapt)
    chosen = [v for v in trainable if selected(v)]
    if not chosen:
        raise ValueError(
            f"`adapt` selects no trainable weight of model '{model.name}'. "
            f"Received: adapt={describe(adapt)}. Trainable weights: "
            f"{[v.path for v in trainable]}"
        )
    return chosen


def require_same_choice(
    model: keras.Model,
    adapt: str | Sequence | Callable[[keras.Variable], bool],
    adapted: Sequence[keras.Variable],
) -> None:
    """Refuses a model in which more would adapt than when it was wrapped.

    Layers that have been frozen since then still adapt; the outer loop leaves
    their initialization alone.

    Args:
        model: The model.
        adapt: See `select_adapted`.
        adapted: What was selected then.

    Raises:
        ValueError: If other variables would be selected now.
    """
    if not model.trainable_variables:
        return
    chosen = select_adapted(model, adapt)
    if {id(v) for v in chosen} - {id(v) for v in adapted}:
        raise ValueError(
            "The variables that adapt have changed since the learner was "
            "made: a layer was frozen or unfrozen. Adapted: "
            f"{[v.path for v in adapted]}. Now chosen by "
            f"adapt={describe(adapt)}: {[v.path for v in chosen]}. Make a new "
            "learner around the model."
        )


def _select(model: keras.Model, adapt: Any) -> Callable[[keras.Variable], bool]:
    if isinstance(adapt, str) and adapt in _BY_NAME:
        return _BY_NAME[adapt](model)
    if isinstance(adapt, (list, tuple)):
        return _variables_of([_find(model, layer) for layer in adapt])
    # A layer is callable too, but it is not a predicate.
    if callable(adapt) and not isinstance(adapt, keras.Layer):
        return lambda variable: _answer(adapt, variable)
    raise ValueError(
        "`adapt` must be 'all', 'head', 'normalization', a list of layers or "
        "layer names, or a predicate on variables. Received: "
        f"adapt={describe(adapt)}"
    )


def _answer(
    adapt: Callable[[keras.Variable], bool], variable: keras.Variable
) -> bool:
    """Asks a predicate about a variable."""
    try:
        return bool(adapt(variable))
    except (TypeError, ValueError) as error:
        raise TypeError(
            "`adapt`, as a predicate, must take a variable and return whether "
            f"it adapts. Received: adapt={describe(adapt)}, which fails for "
            f"'{variable.path}': {error}"
        ) from error


def _all(model: keras.Model) -> Callable[[keras.Variable], bool]:
    return lambda variable: True


def _variables_of(
    layers: Sequence[keras.Layer],
) -> Callable[[keras.Variable], bool]:
    ids = {id(v) for layer in layers for v in layer.variables}
    return lambda variable: id(variable) in ids


def _head(model: keras.Model) -> Callable[[keras.Variable], bool]:
    last = model.trainable_variables[-1]
    owners = [
        layer
        for layer in model._flatten_layers()
        if any(v is last for v in layer.variables)
    ]
    innermost = min(owners, key=lambda x: len(list(x._flatten_layers())))
    return _variables_of([innermost])


def _normalization(model: keras.Model) -> Callable[[keras.Variable], bool]:
    layers = model._flatten_layers()
    return _variables_of([x for x in layers if isinstance(x, _NORMALIZATIONS)])


def _find(model: keras.Model, layer: str | keras.Layer) -> keras.Layer:
    layers = list(model._flatten_layers(include_self=False))
    for candidate in layers:
        is_name = isinstance(layer, str) and layer == candidate.name
        if is_name or layer is candidate:
            return candidate
    raise ValueError(
        f"`adapt` names a layer that model '{model.name}' does not have: "
        f"{describe(layer)}. Its layers: {[x.name for x in layers]}"
    )


_BY_NAME = {"all": _all, "head": _head, "normalization": _normalization}
