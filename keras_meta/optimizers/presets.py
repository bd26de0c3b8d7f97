"""Trained update rules in folders, some of which ship with the package."""

from __future__ import annotations

import json
import pathlib

import keras
import numpy as np

from keras_meta.update_rules.update_rule import UpdateRule

_CONFIG = "rule.json"
_WEIGHTS = "weights.npz"
_SHIPPED = pathlib.Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """Returns the names of the presets that ship with the package.

    Beside each lies a card that says what it was trained on, and how.
    """
    return sorted(path.parent.name for path in _SHIPPED.glob(f"*/{_CONFIG}"))


def save_rule(rule: UpdateRule, folder: str) -> None:
    """Writes an update rule with what it has learned.

    Args:
        rule: The rule.
        folder: Folder to write to; it is made if it does not exist.

    Raises:
        ValueError: If what it has learned belongs to one model.
    """
    if not rule.fits_any_model:
        raise ValueError(
            "A preset holds a rule that fits any model. Received: "
            f"rule={type(rule).__name__}, whose weights belong to the "
            "variables of one model, if it has any. Save the model that it "
            "trains, with its optimizer: model.save('model.keras')."
        )
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    config = keras.saving.serialize_keras_object(rule)
    # What Keras notes of shapes at building is read from the weights.
    config.pop("build_config", None)
    (path / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    with (path / _WEIGHTS).open("wb") as file:
        np.savez(file, *rule.get_weights())


def load_rule(preset: str) -> UpdateRule:
    """Reads an update rule.

    Args:
        preset: One of `preset_names()`, or a folder that `save_rule` wrote.

    Raises:
        ValueError: If there is no such preset or folder, or if its weights
            are those of another rule.
        TypeError: If `preset` is no name.
    """
    path = _find(preset)
    config = json.loads((path / _CONFIG).read_text())
    rule = keras.saving.deserialize_keras_object(config)
    with np.load(path / _WEIGHTS) as file:
        weights = [file[name] for name in file.files]
    shapes = [w.shape for w in rule.weights]
    if [w.shape for w in weights] != shapes:
        raise ValueError(
            f"{path / _WEIGHTS} holds weights of the shapes "
            f"{[w.shape for w in weights]}; the rule of {_CONFIG} beside it "
            f"has {shapes}."
        )
    rule.set_weights(weights)
    return rule


def _find(preset: str) -> pathlib.Path:
    if not isinstance(preset, (str, pathlib.Path)):
        raise TypeError(
            f"`preset` must be the name of a preset, {preset_names()}, or a "
            f"folder. Received: preset={preset!r}"
        )
    for path in (pathlib.Path(preset), _SHIPPED / preset):
        if (path / _CONFIG).is_file():
            return path
    raise ValueError(
        f"`preset` must be one of {preset_names()}, or a folder with a "
        f"{_CONFIG}. Received: preset={str(preset)!r}"
    )
