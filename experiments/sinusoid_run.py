"""One run of sinusoid regression: train, test, record."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import Any
from typing import ClassVar

import keras
import tensorflow as tf

from experiments import checkpoint
from experiments import recorded_run
from experiments import results
from experiments.algorithms import ImplicitOptions
from experiments.algorithms import make_learner
from experiments.algorithms import outer_rate
from keras_meta import episodes
from keras_meta.evaluation import evaluate_tasks
from keras_meta.learners.learner import Learner
from keras_meta.models import sinusoid_mlp

_ITERATIONS_PER_EPOCH = 1000
_EPOCHS_PER_CHECKPOINT = 10
# Keeps test tasks apart from training tasks of any reasonable seed.
_TEST_SEED_OFFSET = 2**32


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a run depends on.

    Attributes:
        algorithm: See `experiments.algorithms.make_learner`. Alternatively
            `"pretrained"`: one network trained on the data of all tasks.
        shots: Number of support and of query points in training.
        family: Name of the family of waves.
        iterations: Number of outer iterations.
        meta_batch: Number of tasks in an outer iteration.
        steps: Inner steps in training.
        test_steps: Inner steps in tests.
        inner_rate: Rate of the inner loop. With `None`, Meta-SGD draws rates.
        meta_rate: Rate of the outer optimizer.
        meta_decay: Decay of that rate.
        hidden: Sizes of the network's hidden layers.
        seed: Seed of weights and tasks.
        test_tasks: Number of tasks in each test.
        test_shots: Number of support and of query points in each test.
        implicit: Options of implicit and of proximal MAML; `None` for the
            others.

    `MAY_DIFFER` lists settings that may change when a stopped run continues,
    because training does not depend on them.
    """

    MAY_DIFFER: ClassVar = ("test_steps", "test_tasks", "test_shots")

    algorithm: str
    shots: int
    family: str
    iterations: int
    meta_batch: int
    steps: int
    test_steps: int
    inner_rate: float | None
    meta_rate: float
    meta_decay: str
    hidden: tuple[int, ...]
    seed: int
    test_tasks: int
    test_shots: tuple[int, ...]
    implicit: ImplicitOptions | None = None

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{self.algorithm}_{self.shots}shot_{self.iterations}"


def run(settings: Settings, output: pathlib.Path) -> dict[str, Any]:
    """Trains and tests a learner, or continues a stopped run.

    Args:
        settings: The settings.
        output: Folder that contains a folder for each run.

    Returns:
        The record; see `experiments.results`.
    """

    def train(directory):
        learner, trainee = _make(settings)
        progress = recorded_run.fit(
            trainee,
            lambda done: _training_data(settings, done * settings.meta_batch),
            settings,
            directory,
            per_epoch=_iterations_per_epoch(settings),
            every=_EPOCHS_PER_CHECKPOINT,
            shuffle=False,
        )
        logged = results.logged(learner, progress.history)
        return progress, {**_test(learner, settings), **logged}

    return recorded_run.run(settings, output, train)


def load(settings: Settings, output: pathlib.Path) -> Learner:
    """Returns the learner that `run` trained."""
    learner, trainee = _make(settings)
    checkpoint.restore(trainee, output / settings.name, settings)
    return learner


def family_of(name: str) -> episodes.SinusoidFamily:
    """Returns the named family of `keras_meta.episodes.sinusoids`."""
    return {
        "maml": episodes.SinusoidFamily(),
        "meta_sgd": episodes.SinusoidFamily(frequency=(0.8, 1.2)),
        "reptile": episodes.SinusoidFamily(phase=(0.0, 2 * math.pi)),
    }[name]


def test_episodes(settings: Settings, shots: int) -> tf.data.Dataset:
    """Returns all test tasks in one batch."""
    return episodes.sinusoids(
        shots=shots,
        queries=shots,
        tasks=settings.test_tasks,
        family=settings.family,
        seed=test_seed(settings),
    )


def test_seed(settings: Settings) -> int:
    """Returns the seed of the test tasks."""
    return settings.seed + _TEST_SEED_OFFSET


def _make(settings: Settings) -> tuple[Learner, keras.Model]:
    """Returns the learner, and what to train: the learner or its model."""
    keras.utils.set_random_seed(settings.seed)
    pretrained = settings.algorithm == "pretrained"
    model = sinusoid_mlp(settings.hidden)
    learner = make_learner(
        "maml" if pretrained else settings.algorithm,
        model,
        inner_rate=settings.inner_rate,
        steps=settings.steps,
        evaluation_steps=settings.test_steps,
        batch_size=settings.shots,
        seed=settings.seed,
        implicit=settings.implicit,
    )
    learner.compile(**_compile_options(settings))
    if pretrained:
        model.compile(jit_compile=True, **_compile_options(settings))
    return learner, model if pretrained else learner


def _compile_options(settings: Settings) -> dict[str, Any]:
    optimizer = keras.optimizers.Adam
    if settings.algorithm == "reptile":
        optimizer = keras.optimizers.SGD
    rate = outer_rate(
        settings.meta_rate, settings.meta_decay, settings.iterations
    )
    return {
        "optimizer": optimizer(rate),
        "loss": "mean_squared_error",
        "steps_per_execution": _iterations_per_epoch(settings),
    }


def _iterations_per_epoch(settings: Settings) -> int:
    return min(_ITERATIONS_PER_EPOCH, settings.iterations)


def _training_data(settings: Settings, start: int) -> tf.data.Dataset:
    data = episodes.sinusoids(
        shots=settings.shots,
        queries=settings.shots,
        tasks=settings.meta_batch,
        family=settings.family,
        seed=settings.seed,
        start=start,
    )
    reshape = {"pretrained": _pooled, "reptile": _all_as_support}
    if settings.algorithm in reshape:
        data = data.map(reshape[settings.algorithm])
    return data.prefetch(tf.data.AUTOTUNE)


def _pooled(x, y):
    """Pools the points of all tasks."""
    inputs = tf.concat([x["support_x"], x["query_x"]], axis=1)
    outputs = tf.concat([x["support_y"], y], axis=1)
    return tf.reshape(inputs, [-1, 1]), tf.reshape(outputs, [-1, 1])


def _all_as_support(x, y):
    """Gives Reptile, which has no query sets, as many points as the others."""
    inputs = tf.concat([x["support_x"], x["query_x"]], axis=1)
    outputs = tf.concat([x["support_y"], y], axis=1)
    return {**x, "support_x": inputs, "support_y": outputs}, y


def _test(learner: Learner, settings: Settings) -> dict[str, Any]:
    return {
        f"{shots}_shot_mse": evaluate_tasks(
            learner, test_episodes(settings, shots), settings.test_tasks
        )["loss"]
        for shots in settings.test_shots
    }
