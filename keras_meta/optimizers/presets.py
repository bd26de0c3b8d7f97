"""Trained update rules in folders, some of which ship with the package.

A folder holds a description of the rule, `rule.json`, and its weights,
`weights.npz`. The description contains the digest of its weights. New weights
are written beside the old ones, and stay there until the new description has
replaced the old one. So a folder holds either the old rule or the new one, no
matter when its writer is stopped.
"""

from __future__ import annotations

import os
import pathlib
import warnings

from keras_meta import durable_files
from keras_meta.checks import describe
from keras_meta.episodes.arguments import check_path
from keras_meta.optimizers import rule_config
from keras_meta.optimizers import rule_weights
from keras_meta.update_rules.update_rule import UpdateRule

_CONFIG = "rule.json"
_WEIGHTS = "weights.npz"
_DIGEST = "weights_sha256"
# Weights not yet in place, named by the start of their digest.
_NEW_WEIGHTS = "new-weights-{}.npz"
_ANY_DIGEST = 16 * "[0-9a-f]"
_SHIPPED = pathlib.Path(__file__).parent / "presets"


def preset_names() -> list[str]:
    """Returns the names of the presets that ship with the package.

    Each has a card that says what it was trained on, and how.
    """
    return sorted(path.parent.name for path in _SHIPPED.glob(f"*/{_CONFIG}"))


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
    check_path(folder=folder)
    if folder in preset_names():
        raise ValueError(
            "`folder` must not be the name of a preset that ships with the "
            "package, because `from_preset` would read that one. Received: "
            f"folder={folder!r}. Pass another name, or the path "
            f"{os.path.join('.', folder)!r}."
        )
    description = rule_config.describe(rule)
    weights = rule_weights.pack(rule)
    digest = durable_files.digest_of(weights)
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    leftovers = _NEW_WEIGHTS.format(_ANY_DIGEST)
    _remove(path, f"{_CONFIG}.*{durable_files.UNFINISHED}")
    _remove(path, f"{leftovers}.*{durable_files.UNFINISHED}")
    new_weights = path / _new_name(digest)
    durable_files.write_bytes(new_weights, weights)
    # This replaces the old rule.
    durable_files.write_json(path / _CONFIG, {**description, _DIGEST: digest})
    new_weights.replace(path / _WEIGHTS)
    _remove(path, leftovers)


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
    path = _find(preset)
    way_out = _way_out(path)
    description = durable_files.read_json(path / _CONFIG, way_out)
    digest = description.pop(_DIGEST, None)
    if not _is_digest(digest):
        raise ValueError(
            f"{path / _CONFIG} must contain the checksum of the weights, 64 "
            f"hexadecimal digits. Received: {_DIGEST}={digest!r}. {way_out}"
        )
    content = _read_weights(path, digest, way_out)
    expected = rule_config.shapes_of(description, path / _CONFIG)
    weights = rule_weights.unpack(content, expected, path / _WEIGHTS)
    rule = rule_config.build(description, path / _CONFIG)
    rule.set_weights(weights)
    return rule


def _find(preset: str | os.PathLike) -> pathlib.Path:
    if not isinstance(preset, (str, os.PathLike)):
        raise TypeError(
            f"`preset` must be the name of a preset, {preset_names()}, or a "
            f"folder. Received: preset={describe(preset)}"
        )
    folder = pathlib.Path(preset)
    if preset in preset_names():
        if (folder / _CONFIG).is_file():
            warnings.warn(
                f"preset={preset!r} is the preset that ships with the "
                "package. The folder of that name is ignored. To read it, "
                f"pass {os.path.join('.', preset)!r}.",
                stacklevel=4,
            )
        return _SHIPPED / preset
    if (folder / _CONFIG).is_file():
        return folder
    raise ValueError(
        f"`preset` must be one of {preset_names()}, or a folder with a "
        f"{_CONFIG}. Received: preset={str(preset)!r}"
    )


def _way_out(path: pathlib.Path) -> str:
    if path.parent == _SHIPPED:
        return "Reinstall the package."
    return (
        "Save the rule again with `save_to_preset`, or use another copy of "
        "the folder."
    )


def _is_digest(value: object) -> bool:
    return (
        isinstance(value, str)
        and len(value) == 64
        and not value.strip("0123456789abcdef")
    )


def _read_weights(path: pathlib.Path, digest: str, way_out: str) -> bytes:
    # A writer that was stopped leaves the weights under this name.
    new_weights = path / _new_name(digest)
    weights = new_weights if new_weights.is_file() else path / _WEIGHTS
    if not weights.is_file():
        raise FileNotFoundError(f"{weights} is missing. {way_out}")
    return durable_files.read_bytes(weights, digest, way_out)


def _new_name(digest: str) -> str:
    return _NEW_WEIGHTS.format(digest[:16])


def _remove(folder: pathlib.Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink(missing_ok=True)
