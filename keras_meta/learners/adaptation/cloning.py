"""Copying a Keras model."""

from __future__ import annotations

import inspect
import tempfile
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_meta._keras import ObjectSharingScope


def clone_model(
    model: keras.Model, values: Mapping[int, tf.Tensor]
) -> keras.Model:
    """Returns an independent copy of a built model.

    The copy has everything that a `.keras` file holds, including vocabularies
    and what layers save through methods of their own, and the state of random
    generators. The model's classes and functions need not be registered.

    Args:
        model: The model.
        values: Maps `id(variable)` to a value for the copy to use instead of
            the variable's own.

    Raises:
        ValueError: If the model cannot be recreated from its config.
    """
    try:
        clone = _from_config(model)
        for layer, copy in zip(
            model._flatten_layers(), clone._flatten_layers(), strict=True
        ):
            _copy_state(layer, copy)
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


def _from_config(model: keras.Model) -> keras.Model:
    # As in a `.keras` file, a layer that a model holds twice stays one layer.
    with ObjectSharingScope():
        config = keras.saving.serialize_keras_object(model)
    # A copy is not compiled, so that custom losses need not be registered.
    config.pop("compile_config", None)
    with ObjectSharingScope():
        return keras.saving.deserialize_keras_object(
            config, custom_objects=_custom_objects(model), safe_mode=False
        )


def _custom_objects(model: keras.Model) -> dict[str, Any]:
    """Returns the classes and functions that the model's config names."""
    found: dict[str, Any] = {}
    for layer in model._flatten_layers():
        objects = [type(x) for x in vars(layer).values() if _has_config(x)]
        for named in (type(layer), *objects, *_functions(layer).values()):
            name = keras.saving.get_registered_name(named)
            if found.setdefault(name, named) is not named:
                raise ValueError(
                    f"Two things are called {name!r}: {found[name]!r} and "
                    f"{named!r}. Rename one, or register both by "
                    "keras.saving.register_keras_serializable."
                )
    return found


def _has_config(value: Any) -> bool:
    return hasattr(value, "get_config") and not inspect.isclass(value)


def _functions(layer: keras.Layer) -> dict[str, Callable]:
    """Returns the functions that a layer was given, by attribute."""
    return {
        name: value
        for name, value in vars(layer).items()
        # Keras wraps methods and keeps them there too.
        if inspect.isfunction(value) and not hasattr(type(layer), name)
    }


def _copy_state(layer: keras.Layer, copy: keras.Layer) -> None:
    """Copies everything that a layer saves to files."""
    _check_same_code(layer, copy)
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    copy.load_own_variables({k: np.asarray(v) for k, v in store.items()})
    if hasattr(layer, "save_assets"):
        with tempfile.TemporaryDirectory() as folder:
            layer.save_assets(folder)
            copy.load_assets(folder)


def _check_same_code(layer: keras.Layer, copy: keras.Layer) -> None:
    """Refuses a copy with other classes or functions.

    A config holds only their names, which may be those of Keras's own by
    accident.
    """
    if type(layer) is not type(copy):
        raise ValueError(f"The copy has {copy!r} in place of {layer!r}.")
    if "call" in vars(layer):
        raise ValueError(
            f"The method `call` of layer '{layer.name}' was replaced by "
            f"{layer.call!r}, which the layer's config does not include. "
            f"Define it in a subclass of {type(layer).__name__} instead."
        )
    copied = _functions(copy)
    for name, function in _functions(layer).items():
        if name in copied and copied[name].__code__ != function.__code__:
            raise ValueError(
                f"Layer '{layer.name}' has {name}={function!r}, which its "
                f"copy takes for {copied[name]!r}. Rename the function."
            )
