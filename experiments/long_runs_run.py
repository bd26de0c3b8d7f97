"""Meta-training on long runs, by one meta-gradient for a given time."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np

import keras_meta
from experiments import optimizees
from experiments.benchmarks import machine
from experiments.estimators_run import Estimator
from keras_meta.problems import Problem
from keras_meta.update_rules.update_rule import UpdateRule

# Keep the problems of tuning and test apart from those of training.
_TUNING_SEED, _TEST_SEED = 2**32, 2**33
# Seeds of training count from here; that of tuning is 0.
_FIRST_SEED = 1
# Whoever diverges goes on; the losses show it.
_TOLERATED_DIVERGENCES = 2**31
_CLIP = 1.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a comparison depends on.

    Attributes:
        problem: Name of the family of problems.
        steps: Steps of a run.
        learning_rate: The rate that the rule begins with.
        seconds: CPU seconds of one thread that each training takes.
        points: Times, at equal distances, at which the rule is tested.
        meta_rates: Rates of Adam to choose from.
        seeds: Trainings with the chosen rate.
        runs: Runs in a meta-step.
        groups: Groups at staggered positions that they are kept in.
        particles: Pairs of particles of evolution strategies for each run.
        sigma: Standard deviation of their perturbations.
        test_runs: Whole runs in a test of the rule.
    """

    problem: str
    steps: int
    learning_rate: float
    seconds: float
    points: int
    meta_rates: tuple[float, ...]
    seeds: int
    runs: int
    groups: int
    particles: int
    sigma: float
    test_runs: int


class Point(NamedTuple):
    """The rule at a moment of training.

    Attributes:
        meta_steps: Meta-steps so far.
        weights: The rule's weights.
    """

    meta_steps: int
    weights: list[np.ndarray]


class Measured(NamedTuple):
    """What is measured of a meta-gradient.

    Attributes:
        tuning: Loss at the end of training for each meta-rate.
        meta_rate: The best of them.
        losses: Mean losses over whole test runs, `[seeds, points + 1]`. The
            first is that of the untrained rule.
        meta_steps: Meta-steps so far, `[seeds, points + 1]`.
        memory: Bytes of resident memory that training added at its peak.
    """

    tuning: dict[float, float]
    meta_rate: float
    losses: np.ndarray
    meta_steps: np.ndarray
    memory: int


def measure(estimator: Estimator, settings: Settings) -> Measured:
    """Chooses a meta-rate, and trains from several seeds.

    Memory is that of the first training, so this must be the first call in a
    process of its own.
    """
    problem = optimizees.make(settings.problem)
    test = _tester(problem, settings)
    machine.reset_peak()
    at_rest, memory, tuning = machine.memory("VmRSS"), 0, {}
    train = _trainer(estimator, problem, settings, seed=0)
    for meta_rate in settings.meta_rates:
        end = train(meta_rate)[-1]
        memory = memory or machine.memory("VmHWM") - at_rest
        tuning[meta_rate] = test(end.weights, _TUNING_SEED)
    best = min(tuning, key=tuning.get)
    ways = [
        _trainer(estimator, problem, settings, seed)(best)
        for seed in range(_FIRST_SEED, _FIRST_SEED + settings.seeds)
    ]
    return Measured(
        tuning,
        best,
        np.array(
            [[test(point.weights, _TEST_SEED) for point in way] for way in ways]
        ),
        np.array([[point.meta_steps for point in way] for way in ways]),
        memory,
    )


def _rule(problem: Problem, settings: Settings) -> UpdateRule:
    rule = keras_meta.LearnedHyperparameters(settings.learning_rate)
    rule.attach(problem.variables, settings.steps)
    # A negative decay helps for a few steps, and makes a long run diverge. So
    # windows would differ for another reason than the one to be shown.
    rule.decays.trainable = False
    return rule


def _tester(
    problem: Problem, settings: Settings
) -> Callable[[list[np.ndarray], int], float]:
    """Returns a function of the rule's weights and of the problems' seed.

    It returns the mean loss over whole runs, or infinity if one diverges.
    """
    rule = _rule(problem, settings)
    learner = keras_meta.OptimizerLearner(
        rule,
        problem,
        settings.steps,
        tolerated_divergences=_TOLERATED_DIVERGENCES,
    )
    learner.compile(jit_compile=False)

    def test(weights, seed):
        rule.set_weights(weights)
        batch = keras_meta.problems.batches(
            settings.test_runs, seed=seed, num_batches=1
        )
        loss = learner.evaluate(batch, verbose=0, return_dict=True)["loss"]
        return loss if math.isfinite(loss) else math.inf

    return test


def _trainer(
    estimator: Estimator, problem: Problem, settings: Settings, seed: int
) -> Callable[[float], list[Point]]:
    """Returns a function that trains a new rule with a meta-rate.

    It takes the given time, and returns the rule at the beginning and at each
    of the times: that of the last meta-step that ended before.
    """
    learner = _learner(estimator, problem, settings, seed)
    step = learner.make_train_function()
    variables = [*learner.variables, *learner.optimizer.variables]
    values = [variable.numpy() for variable in variables]
    times = settings.seconds * np.arange(settings.points + 1) / settings.points

    def begin():
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        return iter(keras_meta.problems.batches(settings.runs, seed=seed))

    def train(meta_rate):
        data = begin()
        learner.optimizer.learning_rate = meta_rate
        points, meta_steps, spent = [], 0, 0.0
        while len(points) < len(times):
            now = Point(meta_steps, learner.rule.get_weights())
            begun = time.process_time()
            step(data)
            spent += time.process_time() - begun
            meta_steps += 1
            reached = int(np.searchsorted(times, spent))
            points += [now] * (reached - len(points))
        return points

    # Tracing takes no time of training.
    step(begin())
    return train


def _learner(
    estimator: Estimator, problem: Problem, settings: Settings, seed: int
) -> keras_meta.OptimizerLearner:
    meta_gradient = estimator.meta_gradient(settings.particles, settings.sigma)
    if meta_gradient.draws_random_numbers:
        meta_gradient = dataclasses.replace(meta_gradient, seed=seed)
    start = keras_meta.Kept(settings.runs, settings.groups)
    if settings.groups > settings.steps // estimator.window:
        # There are too few windows for as many positions.
        start = "drawn"
    learner = keras_meta.OptimizerLearner(
        _rule(problem, settings),
        problem,
        settings.steps,
        meta_gradient=meta_gradient,
        start=start,
        tolerated_divergences=_TOLERATED_DIVERGENCES,
    )
    learner.compile(
        keras.optimizers.Adam(global_clipnorm=_CLIP),
        # XLA would take longer to compile than there is time to train.
        jit_compile=False,
    )
    return learner
