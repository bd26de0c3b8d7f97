"""Folders that hold a description and weights, some shipped with the package.

The description contains the digest of its weights. New weights are written
beside the old ones, and stay there until the new description has replaced the
old one. So a folder holds either the old preset or the new one, no matter when
its writer is stopped.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

from keras_meta import durable_files
from keras_meta.checks import describe
from keras_meta.episodes.arguments import check_path

_WEIGHTS = "weights.npz"
_DIGEST = "weights_sha256"
# Weights not yet in place, named by the start of their digest.
_NEW_WEIGHTS = "new-weights-{}.npz"
_ANY_DIGEST = 16 * "[0-9a-f]"


class Preset(NamedTuple):
    """What a folder holds.

    Attributes:
        description: The description, without the digest.
        description_path: Its file, for error messages.
        weights: Content of the file of weights.
        weights_path: That file, for error messages.
    """

    description: dict[str, Any]
    description_path: pathlib.Path
    weights: bytes
    weights_path: pathlib.Path


@dataclasses.dataclass(frozen=True)
class PresetFolders:
    """Presets of one kind.

    Attributes:
        kind: What a preset holds, such as `"rule"`. Descriptions are in files
            of that name.
        shipped: Folder of the presets that ship with the package.
    """

    kind: str
    shipped: pathlib.Path

    def names(self) -> list[str]:
        """Returns the names of the presets that ship with the package."""
        found = self.shipped.glob(f"*/{self._description}")
        return sorted(path.parent.name for path in found)

    def write(
        self,
        folder: str | os.PathLike,
        description: Mapping[str, Any],
        weights: bytes,
    ) -> None:
        """Writes a preset; one in the folder stays until this is complete.

        Args:
            folder: Folder to write to. It is created if it does not exist.
            description: JSON values by name.
            weights: Content of the file of weights.

        Raises:
            ValueError: If `folder` is the name of a shipped preset.
        """
        self.check_folder(folder)
        digest = durable_files.digest_of(weights)
        path = pathlib.Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        leftovers = _NEW_WEIGHTS.format(_ANY_DIGEST)
        _remove(path, f"{self._description}.*{durable_files.UNFINISHED}")
        _remove(path, f"{leftovers}.*{durable_files.UNFINISHED}")
        new_weights = path / _new_name(digest)
        durable_files.write_bytes(new_weights, weights)
        # This replaces the old preset.
        durable_files.write_json(
            path / self._description, {**description, _DIGEST: digest}
        )
        new_weights.replace(path / _WEIGHTS)
        _remove(path, leftovers)

    def check_folder(self, folder: str | os.PathLike) -> None:
        """Refuses what cannot be written to: no path, or a shipped preset."""
        check_path(folder=folder)
        if folder in self.names():
            raise ValueError(
                "`folder` must not be the name of a preset that ships with "
                "the package, because `from_preset` would read that one. "
                f"Received: folder={folder!r}. Pass another name, or the path "
                f"{os.path.join('.', folder)!r}."
            )

    def read(self, preset: str | os.PathLike) -> Preset:
        """Reads a preset, and compares its files with their checksums.

        Args:
            preset: One of `names()`, or a folder that `write` wrote. If the
                folder has the name of a preset, pass it as a path, such as
                `"./lstm_mnist"` or `pathlib.Path("lstm_mnist")`.

        Raises:
            DamagedFile: If a file has changed since it was written. This is
                a `ValueError`.
            FileNotFoundError: If the weights are missing.
            ValueError: If there is no such preset or folder, or if its
                description does not name its weights.
            TypeError: If `preset` is neither a name nor a path.
        """
        folder = self._find(preset)
        path, way_out = folder / self._description, self._way_out(folder)
        description = durable_files.read_json(path, way_out)
        digest = description.pop(_DIGEST, None)
        if not _is_digest(digest):
            raise ValueError(
                f"{path} must contain the checksum of the weights, 64 "
                f"hexadecimal digits. Received: {_DIGEST}={digest!r}. {way_out}"
            )
        weights = _read_weights(folder, digest, way_out)
        return Preset(description, path, weights, folder / _WEIGHTS)

    @property
    def _description(self) -> str:
        return f"{self.kind}.json"

    def _find(self, preset: str | os.PathLike) -> pathlib.Path:
        if not isinstance(preset, (str, os.PathLike)):
            raise TypeError(
                f"`preset` must be the name of a preset, {self.names()}, or a "
                f"folder. Received: preset={describe(preset)}"
            )
        folder = pathlib.Path(preset)
        if preset in self.names():
            if (folder / self._description).is_file():
                warnings.warn(
                    f"preset={preset!r} is the preset that ships with the "
                    "package. The folder of that name is ignored. To read it, "
                    f"pass {os.path.join('.', preset)!r}.",
                    stacklevel=5,
                )
            return self.shipped / preset
        if (folder / self._description).is_file():
            return folder
        raise ValueError(
            f"`preset` must be one of {self.names()}, or a folder with a "
            f"{self._description}. Received: preset={str(preset)!r}"
        )

    def _way_out(self, folder: pathlib.Path) -> str:
        if folder.parent == self.shipped:
            return "Reinstall the package."
        return (
            f"Save the {self.kind} again with `save_to_preset`, or use "
            "another copy of the folder."
        )


def _is_digest(value: object) -> bool:
    return (
        isinstance(value, str)
        and len(value) == 64
        and not value.strip("0123456789abcdef")
    )


def _read_weights(folder: pathlib.Path, digest: str, way_out: str) -> bytes:
    # A writer that was stopped leaves the weights under this name.
    new_weights = folder / _new_name(digest)
    weights = new_weights if new_weights.is_file() else folder / _WEIGHTS
    if not weights.is_file():
        raise FileNotFoundError(f"{weights} is missing. {way_out}")
    return durable_files.read_bytes(weights, digest, way_out)


def _new_name(digest: str) -> str:
    return _NEW_WEIGHTS.format(digest[:16])


def _remove(folder: pathlib.Path, pattern: str) -> None:
    for path in folder.glob(pattern):
        path.unlink(missing_ok=True)
