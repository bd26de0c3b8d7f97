"""One run of ambiguous regression: train, test, record."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from typing import Any
from typing import ClassVar

import keras
import numpy as np
import tensorflow as tf

import keras_meta
from experiments import checkpoint
from experiments import recorded_run
from experiments.algorithms import outer_rate
from keras_meta.episodes import SineOrLine
from keras_meta.learners.learner import Learner

LEARNERS = ("maml", "maml_ensemble", "probabilistic_maml", "bayesian_maml")
FAMILY = SineOrLine()

_ITERATIONS_PER_EPOCH = 500
_EPOCHS_PER_CHECKPOINT = 4
_QUERIES = 20
# Of the inner gradient of a task, for the mean squared error.
_CLIP_NORM = 50.0
# Keep validation and test tasks apart from training tasks.
_VALIDATION_SEED_OFFSET = 2**31
_TEST_SEED_OFFSET = 2**32
_VALIDATION_TASKS = 200
_AT_ONCE = 100
# The .95 quantile of the distribution of chi squared over its degrees of
# freedom, which the mean squared residual of a plausible function does not
# exceed.
_PLAUSIBLE = {1: 3.84, 5: 2.21, 10: 1.83, 20: 1.57}
_GRID_POINTS = 101
_MEASURED = ("mse", "predictive_nll", "coverage")
# Noises that are tried on validation tasks: the labels' own, and larger ones.
_NOISES, _NOISE_FACTOR = 9, 1.4


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a run depends on.

    Attributes:
        algorithm: One of `LEARNERS`.
        shots: Number of support points.
        iterations: Number of outer iterations.
        meta_batch: Number of tasks in an outer iteration.
        steps: Inner steps.
        inner_rate: Rate of the inner loop for the mean squared error.
        meta_rate: Rate of the outer optimizer.
        meta_decay: Decay of that rate.
        hidden: Sizes of the network's hidden layers.
        particles: Members of an ensemble, and of Bayesian MAML.
        samples: Samples of probabilistic MAML in tests.
        kl_weight: Of probabilistic MAML.
        scale: Initial standard deviation of its weights.
        seed: Seed of weights and tasks.
        test_tasks: Number of tasks in the test.
    """

    MAY_DIFFER: ClassVar = ("test_tasks",)

    algorithm: str
    shots: int
    iterations: int
    meta_batch: int
    steps: int
    inner_rate: float
    meta_rate: float
    meta_decay: str
    hidden: tuple[int, ...]
    particles: int
    samples: int
    kl_weight: float
    scale: float
    seed: int
    test_tasks: int

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
        learner = make(settings)
        progress = recorded_run.fit(
            learner,
            lambda done: _training_data(settings, done * settings.meta_batch),
            settings,
            directory,
            per_epoch=_iterations_per_epoch(settings),
            every=_EPOCHS_PER_CHECKPOINT,
            shuffle=False,
        )
        return progress, _test(learner, settings)

    return recorded_run.run(settings, output, train)


def load(settings: Settings, output: pathlib.Path) -> Learner:
    """Returns the learner that `run` trained."""
    learner = make(settings)
    checkpoint.restore(learner, output / settings.name, settings)
    return learner


def make(settings: Settings) -> Learner:
    """Returns a compiled learner."""
    keras.utils.set_random_seed(settings.seed)
    model = keras_meta.models.sinusoid_mlp(settings.hidden)
    # The chaser loss does not say how far followers should go: learned rates
    # would grow until they diverge.
    learn = None if settings.algorithm == "bayesian_maml" else "layer"
    options = {
        # A steep line far from the others would make a task diverge.
        "update_rule": keras_meta.GradientDescent(
            settings.inner_rate, learn=learn, clip_norm=_CLIP_NORM
        ),
        "steps": settings.steps,
        # All inner loops are alike, whatever their outer loss.
        "inner_loss": "mse",
    }
    if settings.algorithm == "maml":
        learner = keras_meta.MAML(model, **options)
    elif settings.algorithm == "probabilistic_maml":
        learner = keras_meta.ProbabilisticMAML(
            model,
            samples=settings.samples,
            kl_weight=settings.kl_weight,
            scale=settings.scale,
            seed=settings.seed,
            **options,
        )
    else:
        learner = _with_particles(model, settings, options)
    rate = outer_rate(
        settings.meta_rate, settings.meta_decay, settings.iterations
    )
    learner.compile(
        keras.optimizers.Adam(rate, clipnorm=10.0),
        keras_meta.GaussianNLL(FAMILY.noise),
        steps_per_execution=_iterations_per_epoch(settings),
    )
    return learner


def _with_particles(
    model: keras.Model, settings: Settings, options: dict[str, Any]
) -> Learner:
    options = {
        **options,
        "particles": settings.particles,
        "seed": settings.seed,
    }
    if settings.algorithm == "maml_ensemble":
        return keras_meta.MAMLEnsemble(model, **options)
    # The negative log-likelihood of all points is their mean squared error
    # times shots / (2 noise^2).
    temperature = 2 * FAMILY.noise**2 / settings.shots
    return keras_meta.BayesianMAML(model, temperature=temperature, **options)


def _iterations_per_epoch(settings: Settings) -> int:
    return min(_ITERATIONS_PER_EPOCH, settings.iterations)


def _training_data(settings: Settings, start: int) -> tf.data.Dataset:
    return FAMILY.episodes(
        shots=settings.shots,
        queries=_QUERIES,
        tasks=settings.meta_batch,
        seed=settings.seed,
        start=start,
    )


def _test(learner: Learner, settings: Settings) -> dict[str, Any]:
    """Measures how good and how honest predictions are."""
    scale = _tuned_noise(learner, settings)
    learner.compile(
        loss="mse",
        metrics=[
            "mse",
            keras_meta.PredictiveNLL(keras_meta.GaussianNLL(scale)),
            keras_meta.Coverage(scale),
        ],
        jit_compile=False,
    )
    data = _episodes(settings, settings.seed + _TEST_SEED_OFFSET)
    measured = keras_meta.evaluate_tasks(learner, data, settings.test_tasks)
    return {
        "noise": scale,
        **{name: measured[name] for name in _MEASURED},
        **_kinds(learner, settings),
    }


def _tuned_noise(learner: Learner, settings: Settings) -> float:
    """Returns the noise that predicts labels of validation tasks best.

    A learner that errs by more than the labels' own noise must be less sure
    than these are. MAML, with one prediction, has no other way to say so.
    """
    scales = FAMILY.noise * _NOISE_FACTOR ** np.arange(_NOISES)
    metrics = [
        keras_meta.PredictiveNLL(keras_meta.GaussianNLL(scale), str(i))
        for i, scale in enumerate(scales.tolist())
    ]
    learner.compile(loss="mse", metrics=metrics, jit_compile=False)
    data = _episodes(settings, settings.seed + _VALIDATION_SEED_OFFSET)
    measured = keras_meta.evaluate_tasks(learner, data, _VALIDATION_TASKS)
    means = [measured[metric.name].mean for metric in metrics]
    return float(scales[np.argmin(means)])


def _episodes(settings: Settings, seed: int) -> tf.data.Dataset:
    return FAMILY.episodes(
        shots=settings.shots, queries=_QUERIES, tasks=_AT_ONCE, seed=seed
    )


def ambiguous_tasks(
    tasks: int, shots: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns support sets that a wave and a line explain equally well.

    Points lie on the rising or falling flank of a wave, within a third of
    its length, where a line through the middle is within the noise.

    Args:
        tasks: Number of tasks.
        shots: Number of points.
        seed: Seed of the tasks.

    Returns:
        Inputs and noisy labels, `[tasks, shots, 1]` each.
    """
    rng = np.random.default_rng(seed)
    # A wave sin(x + phase) with a phase in 0..pi rises through 0 at -phase,
    # and falls through it at pi - phase.
    phase = rng.uniform(0.2, math.pi - 0.2, size=[tasks, 1, 1])
    falls = rng.integers(0, 2, size=[tasks, 1, 1])
    middle = -phase + math.pi * falls
    amplitude = rng.uniform(1.0, 2.5, size=[tasks, 1, 1])
    x = middle + rng.uniform(-0.8, 0.8, size=[tasks, shots, 1])
    noise = FAMILY.noise * rng.normal(size=x.shape)
    y = amplitude * np.sin(x + phase) + noise
    return x.astype("float32"), y.astype("float32")


def _kinds(learner: Learner, settings: Settings) -> dict[str, Any]:
    """Says what samples make of ambiguous support sets.

    Returns:
        `"plausible"`, the share of samples that explain the support set;
        `"lines"`, the share of samples that are nearer to a line than to a
        wave; and `"both"`, the share of tasks that have samples of both
        kinds.
    """
    seed = settings.seed + _TEST_SEED_OFFSET
    x, y = ambiguous_tasks(settings.test_tasks, settings.shots, seed)
    grid = np.linspace(*FAMILY.x, _GRID_POINTS, dtype="float32")[:, None]
    queries = np.broadcast_to(grid, [len(x), *grid.shape])
    queries = np.concatenate([queries, x], axis=1)
    inputs = {"support_x": x, "support_y": y, "query_x": queries}
    curves = samples_of(learner, inputs)
    on_grid, on_support = np.split(curves, [_GRID_POINTS], axis=1)
    errors = np.mean((on_support - y) ** 2, axis=1) / FAMILY.noise**2
    limit = _PLAUSIBLE.get(settings.shots, 2.0)
    is_line = _is_line(grid[:, 0], on_grid)
    both = is_line.any(axis=1) & ~is_line.all(axis=1)
    return {
        "plausible": float((errors <= limit).mean()),
        "lines": float(is_line.mean()),
        "both": float(both.mean()),
    }


def samples_of(learner: Learner, inputs: dict[str, Any]) -> np.ndarray:
    """Returns predictions as samples, `[tasks, q, samples]`.

    Args:
        learner: The learner. Without samples, it has one.
        inputs: A batch of tasks.
    """
    predictions = learner.predict_on_batch(inputs)
    return predictions.reshape(*predictions.shape[:2], -1)


def _is_line(x: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """Returns whether curves are nearer to a line than to a wave.

    Args:
        x: `[points]`.
        curves: `[tasks, points, samples]`.
    """
    line = _residual(np.stack([x, np.ones_like(x)], axis=1), curves)
    # Waves of the family: a sine and a cosine of frequency 1.
    wave = _residual(np.stack([np.sin(x), np.cos(x)], axis=1), curves)
    return line < wave


def _residual(features: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """Returns squared errors of the best fits, `[tasks, samples]`."""
    orthonormal, _ = np.linalg.qr(features)
    fitted = np.einsum("pf,tps->tfs", orthonormal, curves)
    return (curves**2).sum(axis=1) - (fitted**2).sum(axis=1)
