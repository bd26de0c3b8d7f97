"""Trained meta-learners in folders, some of which ship with the package."""

from __future__ import annotations

import os
import pathlib
from typing import Any

import keras

from keras_meta import preset_weights
from keras_meta.preset_folders import PresetFolders

_LEARNERS = PresetFolders("learner", pathlib.Path(__file__).parent / "presets")


def preset_names(kind: type) -> list[str]:
    """Returns the names of the presets that ship with the package.

    Args:
        kind: The class that their learners must have.
    """
    return [
        name
        for name in _LEARNERS.names()
        if _is_a(kind, _class_of(_LEARNERS.read(name).description))
    ]


def save_learner(learner: keras.Model, folder: str | os.PathLike) -> None:
    """Writes a meta-learner and its weights.

    See `keras_meta.MetaLearner.save_to_preset`.
    """
    _LEARNERS.check_folder(folder)
    weights = preset_weights.pack(learner.weights)
    description = keras.saving.serialize_keras_object(learner)
    if _class_of(description) is not type(learner):
        raise ValueError(
            "The learner of a preset must be registered with Keras. Received: "
            f"{type(learner).__name__}. Decorate the class with "
            "keras.saving.register_keras_serializable()."
        )
    _LEARNERS.write(folder, description, weights)


def load_learner(preset: str | os.PathLike, kind: type) -> Any:
    """Reads a meta-learner; see `keras_meta.MetaLearner.from_preset`.

    Args:
        preset: Name of a preset, or a folder.
        kind: The class that the learner must have.
    """
    found = _LEARNERS.read(preset)
    described = _class_of(found.description)
    if not _is_a(kind, described):
        raise ValueError(
            f"`preset` must hold a {kind.__name__}, of a class that is "
            f"registered with Keras. Received: preset={preset!r}, which holds "
            f"a {found.description.get('registered_name')}. Use `from_preset` "
            "of that class; import it first if it is your own."
        )
    learner = _build(found.description, found.description_path)
    expected = [(tuple(w.shape), w.dtype) for w in learner.weights]
    weights = preset_weights.unpack(found.weights, expected, found.weights_path)
    learner.set_weights(weights)
    return learner


def _is_a(kind: type, described: type | None) -> bool:
    return described is not None and issubclass(described, kind)


def _class_of(description: dict[str, Any]) -> type | None:
    """Returns the class that a description names, if it is registered."""
    name = description.get("registered_name")
    if not isinstance(name, str):
        return None
    found = keras.saving.get_registered_object(name)
    return found if isinstance(found, type) else None


def _build(description: dict[str, Any], path: pathlib.Path) -> keras.Model:
    try:
        return keras.saving.deserialize_keras_object(description)
    except Exception as error:
        raise ValueError(
            f"{path} does not describe a learner that this version can make: "
            f"{error}"
        ) from error
