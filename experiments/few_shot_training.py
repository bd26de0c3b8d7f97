"""Training of few-shot classification, which stops and continues."""

from __future__ import annotations

import csv
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable
from collections.abc import Mapping

import keras
import tensorflow as tf

from experiments import checkpoint
from experiments import few_shot_data
from experiments import few_shot_measure
from experiments.algorithms import outer_rate
from experiments.few_shot_learners import LEARNERS
from experiments.few_shot_learners import Training
from experiments.few_shot_measure import measures
from experiments.few_shot_settings import Settings
from keras_meta import durable_files
from keras_meta.evaluation import Interval
from keras_meta.learners.meta_learner import MetaLearner

_HISTORY = "history.csv"
_PRESET = "preset"


def make(settings: Settings) -> MetaLearner:
    """Returns the learner, untrained, compiled for measuring.

    Where the rate of the inner loop is open, it is the first candidate.
    """
    row = LEARNERS[settings.learner]
    if settings.inner_rate is None and row.rates:
        settings = dataclasses.replace(settings, inner_rate=row.rates[0])
    keras.utils.set_random_seed(settings.seed)
    network = few_shot_data.make_network(settings)
    learner = row.make(settings, network)
    learner.compile(**measures())
    return learner


def train(
    learner: MetaLearner,
    settings: Settings,
    directory: pathlib.Path,
    *,
    data_dir: str | None,
    time_limit: float,
    steps_per_execution: int,
) -> checkpoint.Progress:
    """Trains a learner, or continues where an earlier call stopped.

    Args:
        learner: The learner, as `make` returns it. It gets the weights of the
            best validation.
        settings: The settings.
        directory: Folder of the run.
        data_dir: Folder of the prepared data sets.
        time_limit: Minutes of training, over all calls, or 0 for no limit.
        steps_per_execution: Number of iterations per execution.

    Returns:
        The progress of the run.
    """
    trainee = _make_trainee(learner, settings, data_dir, steps_per_execution)
    progress = checkpoint.resume(trainee, directory, settings)
    done = progress.iterations
    if not is_trained(settings, time_limit, done, progress.seconds):
        trainee.fit(
            _data(settings, data_dir, start=done * settings.meta_batch),
            steps_per_epoch=settings.validate_every,
            initial_epoch=done // settings.validate_every,
            epochs=settings.iterations // settings.validate_every,
            shuffle=False,
            verbose=2,
            callbacks=[
                *LEARNERS[settings.learner].callbacks(settings),
                Validation(
                    learner,
                    functools.partial(validate, learner, settings, data_dir),
                    progress,
                ),
                *_keeping(settings, progress, directory),
                checkpoint.TimeLimit(progress, time_limit),
            ],
        )
    if progress.best:
        learner.set_weights(progress.best)
    return progress


def save(learner: MetaLearner, directory: pathlib.Path) -> None:
    """Saves a trained learner, for `load` and for users."""
    learner.save_to_preset(directory / _PRESET)


def load(directory: pathlib.Path) -> MetaLearner:
    """Returns the learner that a run tested."""
    return MetaLearner.from_preset(directory / _PRESET)


def progress_of(
    settings: Settings, directory: pathlib.Path
) -> checkpoint.Progress:
    """Returns the progress of a run."""
    return checkpoint.read(directory, settings)


def is_trained(
    settings: Settings, time_limit: float, iterations: int, seconds: float
) -> bool:
    """Returns whether training has reached one of its ends."""
    return iterations >= settings.iterations or (0 < 60 * time_limit <= seconds)


def validate(
    learner: MetaLearner, settings: Settings, data_dir: str | None
) -> dict[str, Interval]:
    """Returns the loss and the accuracy on validation tasks.

    Args:
        learner: The learner, compiled.
        settings: The settings.
        data_dir: Folder of the prepared data sets.
    """
    test = settings.ways, settings.shots
    (result,) = few_shot_measure.measure(
        learner,
        settings,
        "validation",
        data_dir,
        tests=[test],
        tasks=settings.validation_tasks,
    ).values()
    return result


class Validation(keras.callbacks.Callback):
    """Evaluates on validation tasks, and keeps the weights that did best.

    Args:
        learner: The learner, which is trained or shares what is trained.
        measure: Function that returns intervals by the names of measures.
        progress: Progress of the run.
    """

    def __init__(
        self,
        learner: MetaLearner,
        measure: Callable[[], Mapping[str, Interval]],
        progress: checkpoint.Progress,
    ):
        super().__init__()
        self._learner = learner
        self._measure = measure
        self._progress = progress

    def on_epoch_end(self, epoch, logs=None):
        for name, interval in self._measure().items():
            logs[f"val_{name}"] = interval.mean
            logs[f"val_{name}_interval"] = interval.half_width
        earlier = [row["val_accuracy"] for row in self._progress.history]
        if not earlier or logs["val_accuracy"] > max(earlier):
            self._progress.best = self._learner.get_weights()


def _make_trainee(
    learner: MetaLearner,
    settings: Settings,
    data_dir: str | None,
    steps_per_execution: int,
) -> keras.Model:
    """Returns what to fit: the learner, or a model that shares its weights."""
    row = LEARNERS[settings.learner]
    trainee = learner
    if row.training is Training.IMAGES:
        classes = few_shot_data.load_classes(settings, "train", data_dir)
        trainee = row.classifier(learner, len(classes))
    rate = outer_rate(
        settings.meta_rate, settings.meta_decay, settings.decay_iterations
    )
    trainee.compile(
        row.optimizer(rate, clipvalue=settings.clip),
        # Epochs must consist of whole executions.
        steps_per_execution=math.gcd(
            steps_per_execution, settings.validate_every
        ),
        **measures(),
    )
    return trainee


def _data(
    settings: Settings, data_dir: str | None, start: int
) -> tf.data.Dataset:
    classes = few_shot_data.load_classes(settings, "train", data_dir)
    if LEARNERS[settings.learner].training is Training.IMAGES:
        return few_shot_data.draw_images(classes, settings, start)
    return few_shot_data.draw_episodes(
        classes,
        settings,
        "train",
        ways=settings.train_ways,
        shots=settings.train_shots,
        tasks=settings.meta_batch,
        start=start,
    )


def _keeping(
    settings: Settings, progress: checkpoint.Progress, directory: pathlib.Path
) -> list[keras.callbacks.Callback]:
    """Returns the callbacks that note the progress and save it."""
    publish = functools.partial(_write_history, progress, directory)
    return [
        checkpoint.NoteProgress(progress),
        checkpoint.Checkpoint(directory, settings, progress, publish=publish),
    ]


def _write_history(
    progress: checkpoint.Progress, directory: pathlib.Path
) -> None:
    """Writes a table for other programs. The run uses the checkpoint."""
    rows = progress.history
    with durable_files.replacing(directory / _HISTORY) as temporary:
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
