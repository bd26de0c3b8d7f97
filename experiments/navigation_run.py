"""One run of navigation in the plane: train, test, record."""

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
from keras_meta.evaluation import Curve
from keras_meta.evaluation import Interval
from keras_meta.models import gaussian_mlp
from keras_meta.reinforcement import PointNavigation
from keras_meta.reinforcement import Rollouts
from keras_meta.reinforcement import roll_out

_ITERATIONS_PER_EPOCH = 10
# Keeps goals of tests apart from those of training.
_TEST_SEED_OFFSET = 2**32
# Two-sided 95 % quantile of the standard normal distribution.
_QUANTILE = 1.96


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a run depends on.

    Attributes:
        algorithm: `"maml"`; `"fomaml"`; `"pretrained"`, a policy that is
            trained on all goals without adaptation; or `"untrained"`, a policy
            that is not trained.
        objective: What an inner step descends; see
            `keras_meta.PolicyLearner`. In training, it matters to `"maml"`
            alone.
        iterations: Number of outer iterations.
        meta_batch: Number of goals in an outer iteration.
        rollouts: Rollouts of each goal before and after the update.
        inner_rate: Rate of the inner step, and of the first one in tests.
        later_rate: Rate of the later inner steps in tests.
        meta_rate: Rate of Adam, which decays to a hundredth.
        hidden: Sizes of the policy's hidden layers.
        initial_std: Where the standard deviation of actions begins.
        seed: Seed of weights, goals and actions.
        test_goals: Number of goals in the test.
        test_steps: Inner steps in the test.
        test_rollouts: Rollouts of each goal for each of them.

    `MAY_DIFFER` lists settings that may change when a stopped run continues,
    because training does not depend on them.
    """

    MAY_DIFFER: ClassVar = (
        "later_rate",
        "test_goals",
        "test_steps",
        "test_rollouts",
    )

    algorithm: str
    objective: str
    iterations: int
    meta_batch: int
    rollouts: int
    inner_rate: float
    later_rate: float
    meta_rate: float
    hidden: tuple[int, ...]
    initial_std: float
    seed: int
    test_goals: int
    test_steps: int
    test_rollouts: int

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        if self.algorithm == "maml":
            return f"maml_{self.objective}"
        return self.algorithm


def run(settings: Settings, output: pathlib.Path) -> dict[str, Any]:
    """Trains and tests a policy, or continues a stopped run.

    Args:
        settings: The settings.
        output: Folder that contains a folder for each run.

    Returns:
        The record; see `experiments.results`.
    """

    def train(directory):
        learner = _make(settings)
        progress = _fit(learner, settings, directory)
        returns = _tester(learner, settings).predict(
            test_goals(settings), batch_size=settings.test_goals, verbose=0
        )
        return progress, {
            "returns": _curve(returns),
            "std": learner.policy.layers[-1].log_std.numpy().tolist(),
            "history": progress.history,
        }

    return recorded_run.run(settings, output, train)


def rollouts_of(
    settings: Settings, output: pathlib.Path, goals: np.ndarray
) -> list[Rollouts]:
    """Returns rollouts after 0, 1, ... updates of the policy of a run.

    Args:
        settings: The settings.
        output: Where `run` left it.
        goals: `[goals, 2]`.
    """
    learner = _make(settings)
    if settings.algorithm != "untrained":
        checkpoint.restore(learner, output / settings.name, settings)
    tester = _tester(learner, settings)
    return [
        tester.roll_out(goals, steps) for steps in range(settings.test_steps)
    ]


def straight_line(settings: Settings) -> Interval:
    """Returns the return of walking straight to the goals of the test."""
    goals = test_goals(settings)
    environment = PointNavigation()

    def act(positions, seed):
        gaps = goals[:, np.newaxis] - positions
        size = tf.reduce_max(tf.abs(gaps), -1, keepdims=True)
        return gaps / tf.maximum(size, environment.step_size)

    seen = roll_out(environment, act, tf.constant(goals), 1, [0, 0])
    curve = _curve(seen.returns.numpy())
    return curve[0]


def test_goals(settings: Settings) -> np.ndarray:
    """Returns the goals of the test, `[goals, 2]`."""
    seed = settings.seed + _TEST_SEED_OFFSET
    (goals,) = PointNavigation().batches(
        settings.test_goals, seed=seed, num_batches=1
    )
    return goals.numpy()


def _make(settings: Settings) -> keras_meta.PolicyLearner:
    """Returns the compiled learner of a run."""
    keras.utils.set_random_seed(settings.seed)
    is_maml = settings.algorithm == "maml"
    pretrained = settings.algorithm == "pretrained"
    learner = keras_meta.PolicyLearner(
        gaussian_mlp(2, 2, settings.hidden, initial_std=settings.initial_std),
        PointNavigation(),
        # A rate of 0 leaves the policy as it is for all goals.
        0.0 if pretrained else settings.inner_rate,
        rollouts=settings.rollouts,
        objective=settings.objective,
        meta_gradient="unrolled" if is_maml else "first_order",
        seed=settings.seed,
    )
    rate = outer_rate(settings.meta_rate, "cosine", settings.iterations)
    learner.compile(keras.optimizers.Adam(rate))
    return learner


def _tester(
    learner: keras_meta.PolicyLearner, settings: Settings
) -> keras_meta.PolicyLearner:
    """Returns a learner that adapts the same policy in several steps."""
    steps = settings.test_steps
    rule = keras_meta.GradientDescent(settings.inner_rate, learn="step")
    tester = keras_meta.PolicyLearner(
        learner.policy,
        learner.environment,
        rule,
        steps,
        rollouts=settings.test_rollouts,
        objective=settings.objective,
        meta_gradient="first_order",
        seed=settings.seed,
    )
    rates = np.full([steps], settings.later_rate)
    rates[0] = settings.inner_rate
    rule.rates[0].assign(rates)
    tester.compile()
    return tester


def _fit(
    learner: keras_meta.PolicyLearner,
    settings: Settings,
    directory: pathlib.Path,
) -> checkpoint.Progress:
    if settings.algorithm == "untrained":
        return checkpoint.Progress()
    return recorded_run.fit(
        learner,
        lambda done: learner.environment.batches(
            settings.meta_batch, seed=settings.seed, start=done
        ),
        settings,
        directory,
        per_epoch=min(_ITERATIONS_PER_EPOCH, settings.iterations),
    )


def _curve(returns: np.ndarray) -> Curve:
    """Returns means over goals, with their intervals.

    Args:
        returns: Mean returns after each number of updates, `[goals, steps]`.
    """
    goals = len(returns)
    deviation = returns.std(axis=0, ddof=1)
    return Curve(
        returns.mean(axis=0), _QUANTILE * deviation / math.sqrt(goals), goals
    )
