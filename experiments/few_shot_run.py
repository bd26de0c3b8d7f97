"""One run of few-shot classification: train, validate, test, record."""

from __future__ import annotations

import csv
import functools
import math
import pathlib
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from experiments import checkpoint
from experiments import few_shot_data
from experiments import few_shot_measure
from experiments import results
from experiments.algorithms import outer_rate
from experiments.few_shot_learners import LEARNERS
from experiments.few_shot_learners import Training
from experiments.few_shot_measure import measures
from experiments.few_shot_settings import Settings
from keras_meta import durable_files
from keras_meta.evaluation import Interval
from keras_meta.learners.meta_learner import MetaLearner

_HISTORY = "history.csv"


def run(
    settings: Settings,
    directory: pathlib.Path,
    *,
    data_dir: str | None,
    time_limit: float,
    steps_per_execution: int,
) -> dict[str, Any]:
    """Trains and tests a learner, or continues where a call stopped.

    The weights of the best validation are tested. Tests on record are not
    repeated.

    Args:
        settings: The settings.
        directory: Folder of the run.
        data_dir: Folder of the prepared data sets.
        time_limit: Minutes of training, over all calls, or 0 for no limit.
        steps_per_execution: Number of iterations per execution.

    Returns:
        The record; see `experiments.results`.
    """
    record = results.read(directory, settings, settings.MAY_DIFFER)
    if record is not None and _is_complete(record, settings, time_limit):
        return record
    learner = make(settings)
    trainee = _make_trainee(learner, settings, data_dir, steps_per_execution)
    progress = checkpoint.resume(trainee, directory, settings)
    if not _is_trained(
        settings, time_limit, progress.iterations, progress.seconds
    ):
        _fit(
            learner,
            trainee,
            settings,
            progress,
            directory,
            data_dir,
            time_limit,
        )
    if progress.best:
        learner.set_weights(progress.best)
    # For users; the run does not read it.
    learner.save_to_preset(directory / "preset")
    known = {}
    if record is not None and record["iterations"] == progress.iterations:
        known = record["measurements"]["tests"]
    return results.write(
        directory,
        settings,
        {
            "tests": _test(learner, settings, data_dir, known),
            **_selected(progress),
            "transductive": settings.batch_statistics == "batch",
            **results.logged(learner, progress.history),
        },
        iterations=progress.iterations,
        seconds=progress.seconds,
    )


def make(settings: Settings) -> MetaLearner:
    """Returns the learner, untrained, compiled for measuring."""
    keras.utils.set_random_seed(settings.seed)
    network = few_shot_data.make_network(settings)
    learner = LEARNERS[settings.learner].make(settings, network)
    learner.compile(**measures())
    return learner


def load(settings: Settings, directory: pathlib.Path) -> MetaLearner:
    """Returns the learner that `run` tested."""
    learner = make(settings)
    learner.set_weights(progress_of(settings, directory).best)
    return learner


def progress_of(
    settings: Settings, directory: pathlib.Path
) -> checkpoint.Progress:
    """Returns the progress of a run."""
    return checkpoint.read(directory, settings)


def test_name(ways: int, shots: int) -> str:
    """Returns the name of a test in a record."""
    return f"{ways}-way {shots}-shot"


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


def _is_complete(
    record: Mapping[str, Any], settings: Settings, time_limit: float
) -> bool:
    """Returns whether there is nothing left to train or to test."""
    known = record["measurements"]["tests"]
    return _is_trained(
        settings, time_limit, record["iterations"], record["seconds"]
    ) and all(_is_known(known, settings, test) for test in settings.tests)


def _is_trained(
    settings: Settings, time_limit: float, iterations: int, seconds: float
) -> bool:
    return iterations >= settings.iterations or (0 < 60 * time_limit <= seconds)


def _make_trainee(
    learner: MetaLearner,
    settings: Settings,
    data_dir: str | None,
    steps_per_execution: int,
) -> keras.Model:
    """Returns what to fit: the learner, or a model that shares its weights."""
    row = LEARNERS[settings.learner]
    trainee = learner
    if row.training in (Training.IMAGES, Training.SEQUENCES):
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


def _fit(
    learner: MetaLearner,
    trainee: keras.Model,
    settings: Settings,
    progress: checkpoint.Progress,
    directory: pathlib.Path,
    data_dir: str | None,
    time_limit: float,
) -> None:
    done = progress.iterations
    validate = functools.partial(_validate, learner, settings, data_dir)
    trainee.fit(
        _training_data(settings, data_dir, start=done * settings.meta_batch),
        steps_per_epoch=settings.validate_every,
        initial_epoch=done // settings.validate_every,
        epochs=settings.iterations // settings.validate_every,
        shuffle=False,
        verbose=2,
        callbacks=[
            *LEARNERS[settings.learner].callbacks(settings),
            Validation(learner, validate, progress),
            checkpoint.NoteProgress(progress),
            checkpoint.Checkpoint(
                directory,
                settings,
                progress,
                publish=functools.partial(_write_history, progress, directory),
            ),
            checkpoint.TimeLimit(progress, time_limit),
        ],
    )


def _training_data(
    settings: Settings, data_dir: str | None, start: int
) -> tf.data.Dataset:
    classes = few_shot_data.load_classes(settings, "train", data_dir)
    training = LEARNERS[settings.learner].training
    if training is Training.IMAGES:
        return few_shot_data.draw_images(classes, settings, start)
    if training is Training.SEQUENCES:
        return few_shot_data.draw_sequences(classes, settings, start)
    return few_shot_data.draw_episodes(
        classes,
        settings,
        "train",
        ways=settings.train_ways,
        shots=settings.train_shots,
        tasks=settings.meta_batch,
        start=start,
    )


def _validate(
    learner: MetaLearner, settings: Settings, data_dir: str | None
) -> dict[str, Interval]:
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


def _test(
    learner: MetaLearner,
    settings: Settings,
    data_dir: str | None,
    known: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns the results of all tests, by their names.

    Args:
        learner: The learner.
        settings: The settings.
        data_dir: Folder of the prepared data sets.
        known: Results of the same weights.
    """
    arguments = learner, settings, "test", data_dir
    tasks = settings.test_tasks
    new = [t for t in settings.tests if not _is_known(known, settings, t)]
    measured = few_shot_measure.measure(*arguments, tests=new, tasks=tasks)
    if settings.curve_steps:
        for test in new:
            measured[test]["curve"] = few_shot_measure.curve(
                *arguments, test=test, tasks=tasks
            )
    return {**known, **{test_name(*t): r for t, r in measured.items()}}


def _is_known(
    known: Mapping[str, Any], settings: Settings, test: tuple[int, int]
) -> bool:
    """Returns whether a test with the present settings is on record."""
    result = known.get(test_name(*test))
    if result is None or result["accuracy"]["tasks"] != settings.test_tasks:
        return False
    curve = result.get("curve", {"mean": [0.0]})
    return len(curve["mean"]) > settings.curve_steps


def _selected(progress: checkpoint.Progress) -> dict[str, Any]:
    """Returns which weights were tested, and why."""
    if not progress.history:
        return {}
    best = max(progress.history, key=lambda row: row["val_accuracy"])
    return {
        "selection": "single model, best validation accuracy",
        "selected_iteration": best["iterations"],
        "validation_accuracy": best["val_accuracy"],
    }


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
