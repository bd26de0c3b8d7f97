"""Comparison of learned and tuned optimizers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

import keras_meta
from keras_meta.inner.inner_loop import InnerLoop
from keras_meta.inner.optimization import Instances
from keras_meta.inner.optimization import OptimizationProblem
from keras_meta.inner.optimization import run_with_losses
from keras_meta.inner.solver import Solver
from keras_meta.problems import Problem
from keras_meta.update_rules.update_rule import UpdateRule

# Added to the seed, these keep the problems apart from those of training, from
# those of validation (2**32), and from each other.
_TUNING_SEED, _TEST_SEED = (2**32 * i for i in (2, 3))
# A rate is tuned for the mean loss over this last fraction of a run.
_TAIL = 10
RATES = np.logspace(-4, 1, 11)
BASELINES = {
    "sgd": keras_meta.GradientDescent,
    "momentum": keras_meta.Momentum,
    "rmsprop": keras_meta.RMSprop,
    "adam": keras_meta.Adam,
}


def name_of(rule: UpdateRule) -> str:
    """Returns a rule's short name, or its class's name if it has none."""
    kinds = {
        keras_meta.CoordinatewiseLSTM: "lstm",
        keras_meta.HierarchicalRNN: "hierarchical",
        keras_meta.LearnedHyperparameters: "hyperparameters",
    }
    return kinds.get(type(rule), type(rule).__name__)


def losses(
    problem: Problem,
    rule: UpdateRule,
    steps: int,
    instances: int,
    *,
    together: int,
    seed: int,
) -> np.ndarray:
    """Optimizes instances with a rule.

    Args:
        problem: The family of problems.
        rule: The rule.
        steps: Number of steps.
        instances: Number of instances.
        together: Number of instances to optimize at once.
        seed: Seed of the instances.

    Returns:
        The losses before each step and after the last,
        `[instances, steps + 1]`.
    """
    run = _compiled_run(problem, rule, steps, together)
    return _losses(run, instances, together, seed)


def _losses(run, instances, together, seed) -> np.ndarray:
    """Returns losses `[instances, steps + 1]`, computed in batches."""
    parts = [
        run(tf.constant(seed, tf.int64), tf.constant(first, tf.int64))
        for first in range(0, instances, together)
    ]
    return np.concatenate(parts, axis=1).T[:instances]


def _compiled_run(problem, rule, steps, together):
    """Returns a function of seed and first index, compiled once."""
    rule.ensure_attached(problem.variables)
    solver = Solver(rule)
    inner = OptimizationProblem(
        problem=problem, variables=rule.trainable_variables, xla=True
    )

    @tf.function(autograph=False, jit_compile=True)
    def run(seed, index):
        instances = Instances(*problem.draw(seed, index, together))
        theta = [tf.convert_to_tensor(v) for v in inner.variables]
        start = solver.init(inner, theta, instances)
        _, losses = run_with_losses(
            InnerLoop.run, solver, inner, theta, instances, start, 0, steps
        )
        return losses

    # Traced here: TensorFlow would take a series of such functions for one
    # that is retraced too often, and warn.
    number = tf.TensorSpec([], tf.int64)
    return run.get_concrete_function(number, number)


def tune(
    problem: Problem,
    name: str,
    steps: int,
    instances: int,
    *,
    together: int,
    seed: int,
) -> dict[float, float]:
    """Returns the mean loss at the end of a run for each of `RATES`.

    Args:
        problem: The family of problems.
        name: Name of a baseline.
        steps: Number of steps.
        instances: Number of instances.
        together: Number of instances to optimize at once.
        seed: Seed of the experiment. The instances differ from those of
            training and test.
    """
    rule = BASELINES[name](1.0, "scalar")
    rule.attach(problem.variables, steps)
    run = _compiled_run(problem, rule, steps, together)
    scores = {}
    for rate in RATES:
        rule.rates[0].assign(rate)
        curves = _losses(run, instances, together, seed + _TUNING_SEED)
        score = float(curves[:, -_TAIL:].mean())
        scores[float(rate)] = score if np.isfinite(score) else np.inf
    return scores


def tuned_baselines(
    problem: Problem, steps: int, instances: int, *, together: int, seed: int
) -> dict[str, float]:
    """Returns the best rate of each baseline; see `tune`."""
    best = {}
    for name in BASELINES:
        scores = tune(
            problem, name, steps, instances, together=together, seed=seed
        )
        best[name] = min(scores, key=scores.get)
    return best


def compare(
    problem: Problem,
    rules: dict[str, UpdateRule],
    rates: dict[str, float],
    steps: int,
    instances: int,
    *,
    together: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Returns the losses of rules and tuned baselines on fresh instances.

    Args:
        problem: The family of problems.
        rules: Learned rules by name.
        rates: Rates of the baselines by name.
        steps: Number of steps.
        instances: Number of instances.
        together: Number of instances to optimize at once.
        seed: Seed of the experiment.
    """
    contenders = dict(rules)
    for name, rate in rates.items():
        contenders[name] = BASELINES[name](rate)
        contenders[name].attach(problem.variables, steps)
    return {
        name: losses(
            problem,
            rule,
            steps,
            instances,
            together=together,
            seed=seed + _TEST_SEED,
        )
        for name, rule in contenders.items()
    }


def summary(
    curves: dict[str, np.ndarray], rule: str, at: Sequence[int]
) -> dict[str, dict]:
    """Returns mean losses at given steps, and how the rule compares.

    Args:
        curves: Losses, `[instances, steps + 1]`, by name.
        rule: Name of the learned rule.
        at: Steps to report.
    """
    means = {name: x.mean(axis=0) for name, x in curves.items()}
    half = {
        name: 1.96 * x.std(axis=0, ddof=1) / len(x) ** 0.5
        for name, x in curves.items()
    }
    # A diverging optimizer must not hide the others.
    finite = [np.where(np.isfinite(m), m, np.inf) for m in means.values()]
    others = np.min(
        [m for n, m in zip(means, finite, strict=True) if n != rule], axis=0
    )
    return {
        "mean": {n: {t: float(m[t]) for t in at} for n, m in means.items()},
        "half_width": {
            n: {t: float(h[t]) for t in at} for n, h in half.items()
        },
        "best_other_over_rule": {
            t: float(others[t] / means[rule][t]) for t in at
        },
        "below_all_others_from_10_to_100": len(others) > 100
        and bool((means[rule][10:101] < others[10:101]).all()),
    }
