"""Trained update rules in folders, some of which ship with the package."""

from __future__ import annotations

import os
import pathlib

from keras_meta import preset_weights
from keras_meta.optimizers import rule_config
from keras_meta.preset_folders import PresetFolders
from keras_meta.update_rules.update_rule import UpdateRule

_RULES = PresetFolders("rule", pathlib.Path(__file__).parent / "presets")


def preset_names() -> list[str]:
    """Returns the names of the presets that ship with the package.

    Each has a card that says what it was trained on, and how.
    """
    return _RULES.names()


def save_rule(rule: UpdateRule, folder: str | os.PathLike) -> None:
    """Writes an update rule and its weights.

    A rule that is already in the folder stays readable until the new one is
    complete.

    Args:
        rule: The rule.
        folder: Folder to write to. It is created if it does not exist.

    Raises:
        ValueError: If the rule's weights belong to one model or are not
            finite, if its class is not registered with Keras, or if `folder`
            is the name of a preset that ships with the package.
    """
    if not rule.fits_any_model:
        raise ValueError(
            "The rule of a preset must fit any model. Received: "
            f"rule={type(rule).__name__}, whose weights, if any, belong to the "
            "variables of one model. Save the model that it trains, together "
            "with its optimizer: model.save('model.keras')."
        )
    _RULES.check_folder(folder)
    description = rule_config.describe(rule)
    _RULES.write(folder, description, preset_weights.pack(rule.weights))


def load_rule(preset: str | os.PathLike) -> UpdateRule:
    """Reads an update rule.

    No code from the folder is executed. Files are compared with their
    checksums. The description is checked before a rule is built from it, and
    the weights are checked before memory is allocated for them.

    Args:
        preset: One of `preset_names()`, or a folder that `save_rule` wrote.
            If the folder has the name of a preset, pass it as a path, such as
            `"./lstm_mnist"` or `pathlib.Path("lstm_mnist")`.

    Returns:
        The rule, with its weights.

    Raises:
        DamagedFile: If a file has changed since it was written. This is a
            `ValueError`.
        FileNotFoundError: If the weights are missing.
        ValueError: If there is no such preset or folder, if it does not
            describe an update rule, or if its weights are not finite or
            belong to another rule.
        TypeError: If `preset` is neither a name nor a path.
    """
    found = _RULES.read(preset)
    description, path = found.description, found.description_path
    expected = rule_config.shapes_of(description, path)
    weights = preset_weights.unpack(found.weights, expected, found.weights_path)
    rule = rule_config.build(description, path)
    rule.set_weights(weights)
    return rule
