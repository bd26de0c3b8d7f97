"""The record that a run leaves behind."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import platform
from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from experiments import run_folder
from keras_meta import durable_files
from keras_meta.evaluation import Curve
from keras_meta.evaluation import Interval
from keras_meta.learners.learner import Learner
from keras_meta.learners.meta_learner import MetaLearner

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
    """Writes `results.json` atomically, with its checksum.

    Args:
        directory: Folder of the run.
        settings: Dataclass of the run's settings.
        measurements: Nested dicts of numbers, `Interval`s and `Curve`s.
        iterations: Number of outer iterations that produced the weights.
        seconds: Wall time of training, over all processes.

    Returns:
        The record that was written.
    """
    record = {
        "settings": dataclasses.asdict(settings),
        "measurements": measurements,
        "iterations": iterations,
        "seconds": round(seconds, 1),
        "versions": versions(),
    }
    record = json.loads(json.dumps(record, default=_plain))
    durable_files.write_json(pathlib.Path(directory) / _FILE, record)
    return record


def read(
    directory: str | os.PathLike,
    settings: Any,
    may_differ: Collection[str] = (),
) -> dict[str, Any] | None:
    """Reads the record of a run.

    Args:
        directory: Folder of the run.
        settings: The settings that the run should have.
        may_differ: Names of settings that the run need not have.

    Returns:
        The record, or `None` if it is missing or damaged.

    Raises:
        run_folder.OtherSettings: If the record has different settings.
    """
    path = pathlib.Path(directory) / _FILE
    record = run_folder.read_json(path, "the trained model is tested again")
    if record is not None:
        run_folder.check_settings(
            path,
            record["settings"],
            settings,
            run_folder.start_afresh(path.parent)
            + " To keep the weights and only repeat the test, remove just "
            f"{path.name}.",
            may_differ,
        )
    return record


def logged(
    learner: MetaLearner, history: Sequence[Mapping[str, float]]
) -> dict[str, float]:
    """Returns what the meta-gradient, if any, logged in the last epoch."""
    if not history or not isinstance(learner, Learner):
        return {}
    return {name: history[-1][name] for name in learner.meta_gradient.logs}


def arrival(record: Mapping[str, Any]) -> str:
    """Says how near to minima the inner loops of a record's run came.

    Args:
        record: What `write` returned.

    Returns:
        A sentence, empty if the run did not use implicit gradients.
    """
    measured = record["measurements"]
    if "inner_gradient_norm" not in measured:
        return ""
    return (
        f"inner loops end at {measured['inner_gradient_norm']:.3f} of the "
        "first gradient's norm, with negative curvature in "
        f"{measured['negative_curvature']:.2%} of tasks"
    )


def interval(values: Mapping[str, Any]) -> Interval:
    """Returns an interval from its dict in a record."""
    return Interval(**values)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of packages the numbers depend on."""
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
