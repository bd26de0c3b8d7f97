"""Checkpoints from which a stopped run continues.

One file holds everything that a run continues from: the weights, the
optimizer's state, the settings and the progress. So all of it belongs to the
same moment, no matter when the process is killed. The previous checkpoint is
kept in case the newest is damaged.

A run continues only with the settings that it started with, except those that
training does not depend on. The run's dataclass of settings lists these in
`MAY_DIFFER`.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import h5py
import keras
import numpy as np

from experiments import run_folder
from keras_meta import durable_files

_SUFFIX = ".weights.h5"
_NEWEST = f"checkpoint{_SUFFIX}"
_PREVIOUS = f"checkpoint.previous{_SUFFIX}"
# Bytes that HDF5 needs for an array besides its values, and for the file.
_PER_ARRAY = 2**13
_PER_FILE = 2**17
# Does not clash with Keras's names in the file.
_GROUP = "experiment"
_RECORD = "record"
_BEST = "best"


@dataclasses.dataclass
class Progress:
    """Progress of a run, besides weights and the optimizer's state.

    Attributes:
        iterations: Number of outer iterations that produced the weights.
        seconds: Wall time of training, over all processes.
        history: One row for each epoch.
        best: Arrays that did best in validation, if validation selects any.
    """

    iterations: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best: list[np.ndarray] = dataclasses.field(default_factory=list)


class Checkpoint(keras.callbacks.Callback):
    """Saves the state of a run at the end of epochs.

    It must come after the callbacks that change `progress`.

    Args:
        directory: Folder of the run.
        settings: Dataclass of the run's settings.
        progress: Progress of the run.
        every: Number of epochs between saves. The last epoch is always saved.
        publish: Called after each save. It writes `progress` for people and
            other programs; the run never reads those files.
    """

    def __init__(
        self,
        directory: pathlib.Path,
        settings: Any,
        progress: Progress,
        every: int = 1,
        publish: Callable[[], None] = lambda: None,
    ):
        super().__init__()
        self._path = directory / _NEWEST
        self._previous = directory / _PREVIOUS
        self._settings = run_folder.as_json(settings)
        self._progress = progress
        self._every = every
        self._publish = publish
        self._is_saved = True

    def on_train_batch_end(self, batch, logs=None):
        self._is_saved = False

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self._every == 0:
            self._save()

    def on_train_end(self, logs=None):
        self._save()

    def _save(self):
        # Saving twice would overwrite the previous checkpoint.
        if self._is_saved:
            return
        durable_files.write_sealed(
            self._path, self._write, _SUFFIX, self._previous
        )
        self._is_saved = True
        self._publish()

    def _write(self, path: pathlib.Path):
        progress = dataclasses.asdict(self._progress)
        best = progress.pop(_BEST)
        record = json.dumps({"settings": self._settings, "progress": progress})
        arrays = [v.numpy() for v in self.model.variables]
        arrays += [v.numpy() for v in self.model.optimizer.variables]
        sizes = [array.nbytes + _PER_ARRAY for array in arrays + best]
        durable_files.reserve(path, sum(sizes) + len(record) + _PER_FILE)
        self.model.save_weights(path)
        with h5py.File(path, "r+") as file:
            group = file.create_group(_GROUP)
            group[_RECORD] = record
            for i, array in enumerate(best):
                group[f"{_BEST}/{i}"] = array


def resume(
    model: keras.Model, directory: pathlib.Path, settings: Any
) -> Progress:
    """Restores the newest intact checkpoint, if any, and reports it.

    See `restore`.
    """
    try:
        progress = restore(model, directory, settings)
    except FileNotFoundError:
        return Progress()
    run_folder.report(
        f"Continuing at iteration {progress.iterations} of {directory}."
    )
    return progress


def restore(
    model: keras.Model, directory: pathlib.Path, settings: Any
) -> Progress:
    """Restores the newest intact checkpoint.

    A damaged checkpoint is renamed and reported.

    Args:
        model: A compiled model.
        directory: Folder of the run.
        settings: Dataclass of the run's settings.

    Returns:
        The progress of the run.

    Raises:
        run_folder.OtherSettings: If the checkpoint belongs to a run with
            different settings.
        durable_files.DamagedFile: If all checkpoints are damaged.
        FileNotFoundError: If there is no checkpoint.
    """
    path, damage = _find(directory)
    progress = _read(path, settings)
    if damage is not None:
        aside = run_folder.set_aside(directory / _NEWEST)
        run_folder.report(
            f"{damage}It is kept as {aside}. The previous checkpoint, "
            f"{path.name}, is used instead."
        )
    model.optimizer.build(model.trainable_variables)
    model.load_weights(path)
    return progress


def read(directory: pathlib.Path, settings: Any) -> Progress:
    """Returns the progress of a run without restoring its weights.

    Arguments and errors are those of `restore`.
    """
    path, _ = _find(directory)
    return _read(path, settings)


def _find(
    directory: pathlib.Path,
) -> tuple[pathlib.Path, durable_files.DamagedFile | None]:
    """Returns the newest intact checkpoint, and the error of a newer one."""
    damage = None
    for path in (directory / _NEWEST, directory / _PREVIOUS):
        try:
            durable_files.check_seal(path, way_out="")
        except FileNotFoundError:
            continue
        except durable_files.DamagedFile as error:
            damage = damage or error
            continue
        return path, damage
    if damage is None:
        raise FileNotFoundError(
            f"{directory / _NEWEST} is missing. Remove {directory} to train "
            "again."
        )
    raise durable_files.DamagedFile(
        f"{damage}No intact checkpoint is left. "
        + run_folder.start_afresh(directory)
    )


def _read(path: pathlib.Path, settings: Any) -> Progress:
    """Returns the progress of a checkpoint with the same settings."""
    with h5py.File(path) as file:
        group = file[_GROUP]
        record = json.loads(group[_RECORD][()])
        arrays = group.get(_BEST, {})
        best = [arrays[str(i)][()] for i in range(len(arrays))]
    run_folder.check_settings(
        path,
        record["settings"],
        settings,
        "To continue that run, use its settings. "
        + run_folder.start_afresh(path.parent),
        settings.MAY_DIFFER,
    )
    return Progress(**record["progress"], best=best)


def _iterations(model: keras.Model) -> int:
    return int(model.optimizer.iterations.numpy())


class NoteProgress(keras.callbacks.Callback):
    """Updates a run's progress, and adds a row of logs after each epoch.

    It must come after the callbacks that add to the logs, and before
    `Checkpoint`.

    Args:
        progress: Progress of the run.
    """

    def __init__(self, progress: Progress):
        super().__init__()
        self._progress = progress

    def on_train_begin(self, logs=None):
        self._start = time.monotonic() - self._progress.seconds

    def on_epoch_end(self, epoch, logs=None):
        progress = self._progress
        progress.seconds = time.monotonic() - self._start
        progress.iterations = _iterations(self.model)
        progress.history.append(
            {
                "epoch": epoch,
                "iterations": progress.iterations,
                "seconds": progress.seconds,
                **{name: float(value) for name, value in logs.items()},
            }
        )


class TimeLimit(keras.callbacks.Callback):
    """Stops training at the end of the epoch in which the time runs out.

    It must come after `NoteProgress`.

    Args:
        progress: Progress of the run, whose time counts over all processes.
        minutes: Minutes, or 0 for no limit.
    """

    def __init__(self, progress: Progress, minutes: float):
        super().__init__()
        self._progress = progress
        self._seconds = 60 * minutes

    def on_epoch_end(self, epoch, logs=None):
        if 0 < self._seconds <= self._progress.seconds:
            self.model.stop_training = True
