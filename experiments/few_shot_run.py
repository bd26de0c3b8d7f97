"""One run of few-shot classification: train, validate, test, record."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

from experiments import checkpoint
from experiments import few_shot_measure
from experiments import few_shot_rates
from experiments import few_shot_training
from experiments import results
from experiments.few_shot_settings import Settings
from keras_meta.learners.meta_learner import MetaLearner


class Run(NamedTuple):
    """A run and its folder."""

    settings: Settings
    directory: pathlib.Path


def run(
    settings: Settings,
    directory: pathlib.Path,
    *,
    data_dir: str | None,
    time_limit: float,
    steps_per_execution: int,
    base: Run | None = None,
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
        base: The run that trained the encoder, for learners that take that of
            another one.

    Returns:
        The record; see `experiments.results`.
    """
    record = results.read(directory, settings, settings.MAY_DIFFER)
    if record is not None and _is_complete(record, settings, time_limit):
        return record
    learner = few_shot_training.make(settings)
    if base is None:
        progress = few_shot_training.train(
            learner,
            settings,
            directory,
            data_dir=data_dir,
            time_limit=time_limit,
            steps_per_execution=steps_per_execution,
        )
    else:
        progress = few_shot_training.progress_of(*base)
        trained = few_shot_training.load(base.directory)
        learner.encoder.set_weights(trained.encoder.get_weights())
    chosen = {}
    if few_shot_rates.is_open(settings):
        learner, chosen = few_shot_rates.choose(learner, settings, data_dir)
    few_shot_training.save(learner, directory)
    known = {}
    if record is not None and record["iterations"] == progress.iterations:
        known = record["measurements"]["tests"]
    measurements = {
        "tests": _test(learner, settings, data_dir, known),
        **_selected(progress),
        **chosen,
        "transductive": settings.batch_statistics == "batch",
        **results.logged(learner, progress.history),
    }
    return results.write(
        directory,
        settings,
        measurements,
        iterations=progress.iterations,
        seconds=progress.seconds,
    )


def test_name(ways: int, shots: int) -> str:
    """Returns the name of a test in a record."""
    return f"{ways}-way {shots}-shot"


def _is_complete(
    record: Mapping[str, Any], settings: Settings, time_limit: float
) -> bool:
    """Returns whether there is nothing left to train or to test."""
    known = record["measurements"]["tests"]
    return few_shot_training.is_trained(
        settings, time_limit, record["iterations"], record["seconds"]
    ) and all(_is_known(known, settings, test) for test in settings.tests)


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
