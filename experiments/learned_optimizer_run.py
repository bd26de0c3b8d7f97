"""Meta-training of an optimizer, and its test against tuned ones."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import time
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

import keras_meta
from experiments import checkpoint
from experiments import optimizees
from keras_meta.learners.optimization import Optimization
from keras_meta.optimizers.presets import load_rule
from keras_meta.optimizers.presets import save_rule
from keras_meta.problems import Problem
from keras_meta.update_rules.update_rule import UpdateRule

# Keep problems of each purpose apart.
_VALIDATION_SEED, _TUNING_SEED, _TEST_SEED = (2**32 * i for i in (1, 2, 3))
# The last part of a run whose mean loss is what a rate is tuned for.
_TAIL = 10
RATES = np.logspace(-4, 1, 11)
_BEST = "best.npz"
RULES = ("lstm", "hierarchical", "hyperparameters")
BASELINES = {
    "sgd": keras_meta.GradientDescent,
    "momentum": keras_meta.Momentum,
    "rmsprop": keras_meta.RMSprop,
    "adam": keras_meta.Adam,
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a run of meta-training depends on.

    Attributes:
        rule: One of `RULES`.
        problem: Name of the family of problems, or of their mixture.
        scaling: Logarithm of the largest random scale; 0 for none.
        steps: Steps of an optimization.
        first_steps: Steps of an optimization in the first epoch. They are
            doubled again and again until, before half-way, they are `steps`.
        truncation: Steps of a window.
        instances: Problem instances of a batch.
        batches: Batches.
        objective: See `keras_meta.OptimizerLearner`.
        weights: Weights of the steps' losses: `"uniform"`, or `"linear"`,
            growing with the step.
        meta_rate: First rate of Adam, which falls to 0 as a cosine.
        preprocessing: See `keras_meta.CoordinatewiseLSTM`; 0 for none.
        output_scale: See `keras_meta.CoordinatewiseLSTM`.
        seed: Seed of weights and problems.
        start_from: Preset or folder of the rule to begin with; `None` for a
            new one.
        validate_every: Batches from one validation to the next.
        validation_instances: Problem instances of a validation, for each
            family.
        validation_steps: Steps of an optimization in validation.
    """

    rule: str
    problem: str
    scaling: float
    steps: int
    first_steps: int
    truncation: int
    instances: int
    batches: int
    objective: str
    weights: str
    meta_rate: float
    preprocessing: float
    output_scale: float
    seed: int
    start_from: str | None
    validate_every: int
    validation_instances: int
    validation_steps: int


class _Best(keras.callbacks.Callback):
    """Saves the rule whenever validation finds it better; keeps a history."""

    def __init__(self, directory: pathlib.Path, time_limit: float):
        super().__init__()
        self._directory = directory
        self._time_limit = time_limit
        self._start = time.monotonic()
        self._history = directory / "history.json"
        self.history = []
        if self._history.exists():
            self.history = json.loads(self._history.read_text())

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.monotonic() - self._start
        row = {k: float(v) for k, v in logs.items()} | {"seconds": seconds}
        # A run that was killed before it saved its state repeats an epoch.
        del self.history[epoch:]
        earlier = [x["val_loss"] for x in self.history]
        self.history.append(row)
        if row["val_loss"] < min(earlier, default=np.inf):
            _save(self.model.rule, self._directory)
        self._history.write_text(json.dumps(self.history, indent=1))
        if self._time_limit and seconds > 60 * self._time_limit:
            self.model.stop_training = True


def _save(rule: UpdateRule, directory: pathlib.Path) -> None:
    with (directory / _BEST).open("wb") as file:
        np.savez(file, *rule.get_weights())
    if rule.fits_any_model:
        save_rule(rule, directory / "preset")


def train(
    settings: Settings, directory: pathlib.Path, time_limit: float = 0.0
) -> UpdateRule:
    """Meta-trains, or goes on where that was stopped.

    Args:
        settings: The settings.
        directory: Folder of the run.
        time_limit: Minutes after which to stop; 0 for none.

    Returns:
        The rule of the best validation.

    Raises:
        ValueError: If the folder holds a run with other settings.
    """
    _note_settings(settings, directory)
    families = _problems(settings)
    lengths = _lengths(settings)
    learner = keras_meta.OptimizerLearner(
        _rule(settings),
        families,
        settings.steps,
        truncation=settings.truncation,
        evaluation_steps=settings.validation_steps,
        objective=settings.objective,
        step_weights=_step_weights(settings),
    )
    # Windows, each an iteration of the optimizer, until the end of an epoch.
    windows = (
        settings.validate_every * np.cumsum(lengths) // (settings.truncation)
    )
    learner.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(
                settings.meta_rate, int(windows[-1])
            ),
            global_clipnorm=1.0,
        )
    )
    iterations = checkpoint.restore(learner, directory)
    epochs_done = int(np.searchsorted(windows, iterations, side="right"))
    learner.fit(
        keras_meta.problems.batches(
            settings.instances,
            seed=settings.seed,
            start=epochs_done * settings.validate_every * settings.instances,
        ),
        steps_per_epoch=settings.validate_every,
        initial_epoch=epochs_done,
        epochs=len(lengths),
        validation_data=_validation(settings, len(families)),
        callbacks=[
            keras_meta.callbacks.LengthenUnroll(dict(enumerate(lengths))),
            _Best(directory, time_limit),
            checkpoint.Checkpoint(directory),
        ],
        verbose=2,
    )
    with np.load(directory / _BEST) as weights:
        learner.rule.set_weights(list(weights.values()))
    return learner.rule


def _note_settings(settings: Settings, directory: pathlib.Path) -> None:
    """Writes the settings, or requires that they are those of before."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "settings.json"
    mine = dataclasses.asdict(settings)
    before = json.loads(path.read_text()) if path.exists() else mine
    changed = {k for k in mine if mine[k] != before.get(k)}
    if changed:
        raise ValueError(
            f"{directory} holds a run with other settings: "
            + ", ".join(
                f"{k}={before.get(k)!r}, now {mine[k]!r}"
                for k in sorted(changed)
            )
            + ". Choose another --output, or remove it."
        )
    path.write_text(json.dumps(mine, indent=1) + "\n")


def _problems(settings: Settings) -> list[Problem]:
    if settings.problem == optimizees.MIXTURE:
        families = optimizees.mixture()
    else:
        families = [optimizees.make(settings.problem)]
    if settings.scaling:
        families = [
            keras_meta.problems.RandomScaling(
                family, -settings.scaling, settings.scaling
            )
            for family in families
        ]
    return families


def _lengths(settings: Settings) -> list[int]:
    """Returns the steps of an optimization in each epoch."""
    epochs = -(-settings.batches // settings.validate_every)
    if not settings.truncation <= settings.first_steps <= settings.steps:
        raise ValueError(
            f"--first_steps must be from --truncation={settings.truncation} to "
            f"--steps={settings.steps}. Received: {settings.first_steps}"
        )
    doublings = math.log2(settings.steps / settings.first_steps)
    lengths = []
    for epoch in range(epochs):
        share = min(1.0, 2 * epoch / (epochs - 1)) if epochs > 1 else 1.0
        steps = settings.first_steps * 2 ** math.ceil(share * doublings)
        steps -= steps % settings.truncation
        lengths.append(min(steps, settings.steps))
    return lengths


def _rule(settings: Settings) -> UpdateRule:
    if settings.start_from:
        return load_rule(settings.start_from)
    if settings.rule == "hyperparameters":
        return keras_meta.LearnedHyperparameters()
    if settings.rule == "hierarchical":
        return keras_meta.HierarchicalRNN(seed=settings.seed)
    return keras_meta.CoordinatewiseLSTM(
        preprocessing=settings.preprocessing or None,
        output_scale=settings.output_scale,
        seed=settings.seed,
    )


def _step_weights(settings: Settings) -> np.ndarray | None:
    if settings.weights == "uniform":
        return None
    return np.arange(1, settings.steps + 1) / settings.steps


def _validation(settings: Settings, families: int) -> tf.data.Dataset:
    together = min(settings.validation_instances, settings.instances)
    return keras_meta.problems.batches(
        together,
        seed=settings.seed + _VALIDATION_SEED,
        num_batches=settings.validation_instances // together * families,
    )


def name_of(rule: UpdateRule) -> str:
    """Returns the one of `RULES` that a rule is of, or its class's name."""
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
    """Optimizes instances by a rule.

    Args:
        problem: The family of problems.
        rule: The rule.
        steps: Steps.
        instances: Instances.
        together: How many of them at once.
        seed: Seed of the instances.

    Returns:
        The losses before each step and after the last,
        `[instances, steps + 1]`.
    """
    run = _compiled_run(problem, rule, steps, together)
    parts = [
        run(tf.constant(seed, tf.int64), tf.constant(first, tf.int64))
        for first in range(0, instances, together)
    ]
    return np.concatenate(parts, axis=1).T[:instances]


def _compiled_run(problem, rule, steps, together):
    optimization = Optimization(problem, rule, xla=True)

    @tf.function(autograph=False, jit_compile=True)
    def run(seed, index):
        params, data = problem.draw(seed, index, together)
        start = optimization.start(params)
        return optimization.take_steps(start, data, 0, steps)[1]

    return run


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
        steps: Steps.
        instances: Instances.
        together: How many of them at once.
        seed: Seed of the experiment; the instances are others than those of
            training and test.
    """
    rule = BASELINES[name](1.0, "scalar")
    rule.attach(problem.variables, steps)
    run = _compiled_run(problem, rule, steps, together)
    scores = {}
    for rate in RATES:
        rule.rates[0].assign(rate)
        parts = [
            run(
                tf.constant(seed + _TUNING_SEED, tf.int64),
                tf.constant(first, tf.int64),
            )
            for first in range(0, instances, together)
        ]
        score = float(np.mean([part[-_TAIL:] for part in parts]))
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
        steps: Steps.
        instances: Instances.
        together: How many of them at once.
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
    """Returns mean losses at some steps, and how the rule compares.

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
    # One that diverges does not hide the others.
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
