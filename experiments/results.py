"""The record that a run leaves behind."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from keras_meta.evaluation import Curve
from keras_meta.evaluation import Interval

_FILE = "results.json"
_PACKAGES = ("keras", "numpy", "tensorflow", "tensorflow-datasets")


def write(
    directory: str | os.PathLike,
    settings: Any,
    measurements: Mapping[str, Any],
    *,
    iterations: int,
    seconds: float,
) -> dict[str, Any]:
    """Writes `results.json` in one go, so that it is whole or absent.

    Args:
        directory: Folder of the run.
        settings: Dataclass of everything that was chosen.
        measurements: Nested dicts of numbers, `Interval`s and `Curve`s.
        iterations: Outer iterations that the weights have seen.
        seconds: Wall time of training in this process.

    Returns:
        What was written.
    """
    record = {
        "settings": dataclasses.asdict(settings),
        "measurements": measurements,
        "iterations": iterations,
        "seconds": round(seconds, 1),
        "versions": versions(),
    }
    text = json.dumps(record, default=_plain, indent=2)
    target = pathlib.Path(directory) / _FILE
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".tmp")
    unfinished.write_text(text + "\n")
    unfinished.replace(target)
    return json.loads(text)


def read(directory: str | os.PathLike, settings: Any) -> dict[str, Any] | None:
    """Reads the record of a finished run.

    Args:
        directory: Folder of the run.
        settings: The settings that the run should have had.

    Returns:
        The record, or `None` if there is none.

    Raises:
        ValueError: If the record is that of other settings.
    """
    path = pathlib.Path(directory) / _FILE
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    wanted = json.loads(json.dumps(dataclasses.asdict(settings)))
    different = sorted(
        name
        for name in {*wanted, *record["settings"]}
        if wanted.get(name) != record["settings"].get(name)
    )
    if different:
        raise ValueError(
            f"{path} holds a run with another {', '.join(different)}. Choose "
            "another --output or remove that folder."
        )
    return record


def interval(values: Mapping[str, Any]) -> Interval:
    """Returns the interval that a record holds as a dict."""
    return Interval(**values)


def versions() -> dict[str, str]:
    """Versions of Python and of what the numbers depend on."""
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
    }


def _version(package: str) -> str:
    for name in (package, f"{package}-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def _plain(value):
    if isinstance(value, Interval):
        return dataclasses.asdict(value)
    if isinstance(value, Curve):
        return {
            "mean": value.mean.tolist(),
            "half_width": value.half_width.tolist(),
            "tasks": value.tasks,
        }
    raise TypeError(f"{type(value).__name__} cannot be written to a record.")
