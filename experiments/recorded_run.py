"""A run that goes on where it stopped, and is recorded when it is finished."""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from experiments import checkpoint
from experiments import results
from experiments import run_folder


def run(
    settings: Any,
    output: pathlib.Path,
    train: Callable[
        [pathlib.Path], tuple[checkpoint.Progress, Mapping[str, Any]]
    ],
) -> dict[str, Any]:
    """Returns the record of a run, and makes it if there is none.

    Args:
        settings: Dataclass of the run's settings, with the `name` of its
            folder.
        output: Folder that contains a folder for each run.
        train: Function of the run's folder. It trains and tests, and returns
            the progress and the measurements.

    Returns:
        The record; see `experiments.results`.
    """
    directory = output / settings.name
    with run_folder.owned(directory):
        record = results.read(directory, settings)
        if record is not None:
            return record
        progress, measurements = train(directory)
        return results.write(
            directory,
            settings,
            measurements,
            iterations=progress.iterations,
            seconds=progress.seconds,
        )


def fit(
    trainee: keras.Model,
    data: Callable[[int], tf.data.Dataset],
    settings: Any,
    directory: pathlib.Path,
    *,
    per_epoch: int,
    every: int = 1,
    **options: Any,
) -> checkpoint.Progress:
    """Trains what is left of a run, from the newest checkpoint.

    Args:
        trainee: The compiled model or learner.
        data: Function of the number of iterations that are done. It returns
            the batches of the others.
        settings: Dataclass of the run's settings, with its `iterations`.
        directory: Folder of the run.
        per_epoch: Number of iterations in an epoch.
        every: Number of epochs between checkpoints.
        **options: Further arguments of `fit`.

    Returns:
        The progress of the run.
    """
    progress = checkpoint.resume(trainee, directory, settings)
    done = progress.iterations
    if done < settings.iterations:
        trainee.fit(
            data(done),
            steps_per_epoch=per_epoch,
            initial_epoch=done // per_epoch,
            epochs=math.ceil(settings.iterations / per_epoch),
            callbacks=[
                checkpoint.NoteProgress(progress),
                checkpoint.Checkpoint(directory, settings, progress, every),
            ],
            verbose=0,
            **options,
        )
    return progress
