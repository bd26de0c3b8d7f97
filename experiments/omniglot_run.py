"""One run of few-shot classification on Omniglot: train, test, record."""

from __future__ import annotations

import csv
import dataclasses
import math
import pathlib
from typing import Any
from typing import ClassVar

import keras
import tensorflow as tf

from experiments import checkpoint
from experiments import results
from experiments.algorithms import ImplicitOptions
from experiments.algorithms import make_learner
from experiments.algorithms import outer_rate
from keras_meta import durable_files
from keras_meta import episodes
from keras_meta.callbacks.task_evaluation import TaskEvaluation
from keras_meta.evaluation import adaptation_curve
from keras_meta.evaluation import evaluate_tasks
from keras_meta.learners.learner import Learner
from keras_meta.models import omniglot_conv
from keras_meta.models import omniglot_mlp

_IMAGES_PER_CLASS = 20
_SEED_OFFSETS = {"train": 0, "validation": 2**32, "test": 2**33}
_HISTORY = "history.csv"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a run depends on.

    Attributes:
        algorithm: See `experiments.algorithms.make_learner`.
        network: `"conv"`, `"pool"` or `"mlp"`.
        ways: Number of classes in a task.
        shots: Number of support images of each class.
        train_shots: The same in training, where Reptile uses more.
        queries: Number of query images of each class.
        steps: Inner steps in training.
        evaluation_steps: Inner steps in tests.
        batch_size: Number of support images in a step of Reptile, or `None`.
        inner_rate: Rate of the inner loop. With `None`, Meta-SGD draws rates.
        meta_rate: Rate of the outer optimizer.
        meta_decay: Decay of that rate.
        meta_batch: Number of tasks in an outer iteration.
        iterations: Number of outer iterations.
        protocol: Split of the characters.
        rotations: `"classes"`: rotated characters are additional training
            classes. `"episodes"`: each class of each episode is rotated at
            random, even in tests. `"none"`: no rotations.
        batch_statistics: See `keras_meta.learners.learner.Learner`.
        seed: Seed of weights and tasks.
        validate_every: Number of iterations between validations.
        validation_tasks: Number of tasks in a validation.
        test_tasks: Number of tasks in the test.
        curve_steps: Largest number of inner steps in the test's curve.
        implicit: Options of implicit and of proximal MAML; `None` for the
            others.

    `MAY_DIFFER` lists settings that may change when a stopped run continues,
    because neither training nor validation depends on them.
    """

    MAY_DIFFER: ClassVar = ("test_tasks", "curve_steps")

    algorithm: str
    network: str
    ways: int
    shots: int
    train_shots: int
    queries: int
    steps: int
    evaluation_steps: int
    batch_size: int | None
    inner_rate: float | None
    meta_rate: float
    meta_decay: str
    meta_batch: int
    iterations: int
    protocol: str
    rotations: str
    batch_statistics: str
    seed: int
    validate_every: int
    validation_tasks: int
    test_tasks: int
    curve_steps: int
    implicit: ImplicitOptions | None = None

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return (
            f"{self.algorithm}_{self.network}_{self.ways}way_{self.shots}shot"
            f"_{self.iterations}"
        )


def run(
    settings: Settings,
    directory: pathlib.Path,
    *,
    data_dir: str | None,
    time_limit: float,
    steps_per_execution: int,
) -> dict[str, Any]:
    """Trains and tests a learner, or continues a stopped run.

    Args:
        settings: The settings.
        directory: Folder of the run.
        data_dir: Folder of the prepared data sets.
        time_limit: Minutes after which training stops, or 0.
        steps_per_execution: Number of iterations per execution.

    Returns:
        The record; see `experiments.results`.
    """
    record = results.read(directory, settings)
    if record is not None and record["iterations"] >= settings.iterations:
        return record
    learner = make(settings, steps_per_execution)
    progress = checkpoint.resume(learner, directory, settings)
    if progress.iterations < settings.iterations:
        _fit(learner, settings, progress, directory, data_dir, time_limit)
    _write_history(progress, directory)
    test = load_episodes(settings, "test", data_dir)
    measured = evaluate_tasks(learner, test, settings.test_tasks)
    curve = adaptation_curve(
        learner, test, settings.test_tasks, settings.curve_steps
    )
    return results.write(
        directory,
        settings,
        {
            **{f"test_{name}": value for name, value in measured.items()},
            **{f"curve_{name}": value for name, value in curve.items()},
            **results.logged(learner, progress.history),
        },
        iterations=progress.iterations,
        seconds=progress.seconds,
    )


def make(settings: Settings, steps_per_execution: int = 1) -> Learner:
    """Returns the compiled learner, untrained."""
    keras.utils.set_random_seed(settings.seed)
    learner = make_learner(
        settings.algorithm,
        _network(settings),
        inner_rate=settings.inner_rate,
        steps=settings.steps,
        evaluation_steps=settings.evaluation_steps,
        batch_size=settings.batch_size,
        seed=settings.seed,
        batch_statistics=settings.batch_statistics,
        implicit=settings.implicit,
    )
    optimizer = keras.optimizers.Adam
    if settings.algorithm == "reptile":
        optimizer = keras.optimizers.SGD
    rate = outer_rate(
        settings.meta_rate, settings.meta_decay, settings.iterations
    )
    learner.compile(
        optimizer(rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        # Epochs and the run must consist of whole executions.
        steps_per_execution=math.gcd(
            steps_per_execution, settings.validate_every, settings.iterations
        ),
    )
    return learner


def load_episodes(
    settings: Settings,
    split: str,
    data_dir: str | None,
    start: int = 0,
) -> tf.data.Dataset:
    """Returns episodes from one part of the characters.

    Args:
        settings: The settings.
        split: `"train"`, `"validation"` or `"test"`.
        data_dir: Folder of the prepared data sets.
        start: Index of the first episode.
    """
    shots = settings.train_shots if split == "train" else settings.shots
    turned = settings.rotations == "classes"
    classes = episodes.omniglot(
        split,
        protocol=settings.protocol,
        rotations=None if turned else (),
        data_dir=data_dir,
    )
    return classes.episodes(
        ways=settings.ways,
        shots=shots,
        queries=min(settings.queries, _IMAGES_PER_CLASS - shots),
        tasks=settings.meta_batch,
        seed=settings.seed + _SEED_OFFSETS[split],
        start=start,
        rotate="class" if settings.rotations == "episodes" else None,
    )


def history(
    settings: Settings, directory: pathlib.Path
) -> list[dict[str, float]]:
    """Returns the logs of each epoch of a run."""
    return checkpoint.read(directory, settings).history


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


def _network(settings: Settings) -> keras.Model:
    if settings.network == "mlp":
        return omniglot_mlp(settings.ways)
    return omniglot_conv(settings.ways, pool=settings.network == "pool")


def _fit(
    learner: Learner,
    settings: Settings,
    progress: checkpoint.Progress,
    directory: pathlib.Path,
    data_dir: str | None,
    time_limit: float,
) -> None:
    done = progress.iterations
    learner.fit(
        load_episodes(
            settings, "train", data_dir, start=done * settings.meta_batch
        ),
        steps_per_epoch=settings.validate_every,
        initial_epoch=done // settings.validate_every,
        epochs=math.ceil(settings.iterations / settings.validate_every),
        shuffle=False,
        callbacks=[
            TaskEvaluation(
                load_episodes(settings, "validation", data_dir),
                settings.validation_tasks,
            ),
            checkpoint.NoteProgress(progress),
            checkpoint.Checkpoint(
                directory,
                settings,
                progress,
                publish=lambda: _write_history(progress, directory),
            ),
            checkpoint.IterationLimit(settings.iterations),
            checkpoint.TimeLimit(time_limit),
        ],
    )
