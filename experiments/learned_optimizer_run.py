"""Meta-training of an optimizer."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import pathlib
import time
from collections.abc import Sequence
from typing import ClassVar

import keras
import numpy as np
import tensorflow as tf

import keras_meta
from experiments import checkpoint
from experiments import optimizees
from experiments import run_folder
from keras_meta import durable_files
from keras_meta.optimizers.presets import load_rule
from keras_meta.optimizers.presets import save_rule
from keras_meta.problems import Problem
from keras_meta.update_rules.update_rule import UpdateRule

# Keeps the problems of validation apart from those of training.
_VALIDATION_SEED = 2**32
# Consecutive ones; a few of the thousands of problems may diverge.
_TOLERATED_DIVERGENCES = 10
RULES = ("lstm", "hierarchical", "hyperparameters")
# Evolution strategies, by the names that meta-gradients have in the library.
STRATEGIES = {
    "persistent_es": keras_meta.PersistentES,
    "noise_reuse_es": keras_meta.NoiseReuseES,
    "evolution_strategies": keras_meta.EvolutionStrategies,
}
META_GRADIENTS = ("truncated", *STRATEGIES)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a meta-training run depends on.

    Attributes:
        rule: One of `RULES`.
        problem: Name of the family of problems, or of their mixture.
        scaling: Logarithm of the largest random scale; 0 for none.
        steps: Number of steps in an optimization.
        first_steps: Number of steps in an optimization in the first epoch. It
            is doubled repeatedly, and reaches `steps` before half of training.
        truncation: Number of steps in a window.
        instances: Number of problem instances in a batch.
        batches: Number of batches.
        objective: See `keras_meta.OptimizerLearner`.
        second_order: Whether the gradient through a window differentiates
            the inner gradients.
        weights: Weights of the steps' losses: `"uniform"`, or `"linear"`,
            which grow with the step.
        meta_rate: Initial rate of Adam, which falls to 0 along a cosine.
        clip: Largest norm of a meta-gradient. Adam divides by the magnitude of
            gradients, so with a norm that all exceed, all windows have equal
            weight.
        preprocessing: See `keras_meta.CoordinatewiseLSTM`; 0 for none.
        output_scale: See `keras_meta.CoordinatewiseLSTM`.
        seed: Seed of weights and problems.
        start_from: Preset or folder of the rule to start from; `None` for a
            new one.
        validate_every: Number of batches between validations.
        validation_instances: Number of problem instances in a validation, for
            each family.
        validation_steps: Number of steps in an optimization in validation.
        meta_gradient: How the gradient comes back through a window: one of
            `META_GRADIENTS`.
        particles: Pairs of particles of evolution strategies.
        sigma: Standard deviation of their perturbations.
        kept_groups: Number of staggered groups of runs that are kept from
            batch to batch, see `keras_meta.Kept`; 0 to draw new ones.

    Training depends on all of these, so a stopped run continues only with the
    same settings.
    """

    MAY_DIFFER: ClassVar = ()

    rule: str
    problem: str
    scaling: float
    steps: int
    first_steps: int
    truncation: int
    instances: int
    batches: int
    objective: str
    second_order: bool
    weights: str
    meta_rate: float
    clip: float
    preprocessing: float
    output_scale: float
    seed: int
    start_from: str | None
    validate_every: int
    validation_instances: int
    validation_steps: int
    meta_gradient: str = "truncated"
    particles: int | None = None
    sigma: float | None = None
    kept_groups: int = 0


def check(settings: Settings) -> None:
    """Refuses settings of the meta-gradient that do not go together.

    Raises:
        ValueError: If there are such settings. The message names the flags.
    """
    name = settings.meta_gradient
    evolves = name in STRATEGIES
    for flag, value in {
        "particles": settings.particles,
        "sigma": settings.sigma,
    }.items():
        if value is not None and not evolves:
            raise ValueError(
                f"--meta_gradient={name} has no particles. Received: "
                f"--{flag}={value}. Leave it out, or use "
                "--meta_gradient=persistent_es, for instance."
            )
    if evolves and settings.second_order:
        raise ValueError(
            f"--meta_gradient={name} differentiates nothing. Received: "
            "--second_order. Leave it out, or use --meta_gradient=truncated."
        )
    if evolves and not 0 < settings.sigma < math.inf:
        raise ValueError(
            "--sigma must be positive and finite. Received: "
            f"--sigma={settings.sigma}"
        )
    if settings.kept_groups:
        _check_kept(settings)


def _check_kept(settings: Settings) -> None:
    groups = settings.kept_groups
    if settings.problem == optimizees.MIXTURE:
        raise ValueError(
            "Kept runs are of one family. Received: "
            f"--kept_groups={groups} --problem={settings.problem}. Choose one "
            "family, or leave out --kept_groups."
        )
    if settings.instances % groups:
        raise ValueError(
            "--kept_groups must divide --instances, the number of runs. "
            f"Received: --kept_groups={groups} "
            f"--instances={settings.instances}"
        )
    windows = settings.first_steps // settings.truncation
    if windows < max(groups, 2):
        raise ValueError(
            "Runs that are kept must have at least 2 windows, and as many as "
            f"--kept_groups. Received: --kept_groups={groups} and "
            f"{windows} windows of --truncation={settings.truncation} steps "
            f"in runs of --first_steps={settings.first_steps}. Use fewer "
            "groups, shorter windows, or longer runs."
        )


class _KeepBest(keras.callbacks.Callback):
    """Keeps the rule's weights of the best validation.

    It must come after the callback that records the history.
    """

    def __init__(self, progress: checkpoint.Progress):
        super().__init__()
        self._progress = progress

    def on_epoch_end(self, epoch, logs=None):
        *earlier, last = [row["val_loss"] for row in self._progress.history]
        # A loss that is not finite is never the best.
        best = min(filter(math.isfinite, earlier), default=math.inf)
        if not self._progress.best or last < best:
            self._progress.best = self.model.rule.get_weights()


class _TimeLimit(keras.callbacks.Callback):
    """Stops training at the end of the epoch in which the time runs out.

    Args:
        minutes: Minutes, or 0 for no limit.
    """

    def __init__(self, minutes: float):
        super().__init__()
        self._seconds = 60 * minutes
        self._start = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        elapsed = time.monotonic() - self._start
        if self._seconds and elapsed > self._seconds:
            self.model.stop_training = True


def _publish(
    settings: Settings, progress: checkpoint.Progress, directory: pathlib.Path
) -> None:
    """Writes files for other programs. The run itself uses the checkpoint."""
    history = json.dumps(progress.history, indent=1) + "\n"
    durable_files.write_bytes(directory / "history.json", history.encode())
    durable_files.write_sealed(
        directory / "best.npz",
        lambda path: np.savez(path, *progress.best),
        suffix=".npz",
    )
    rule = _rule(settings)
    if rule.fits_any_model:
        rule.set_weights(progress.best)
        save_rule(rule, directory / "preset")


def train(
    settings: Settings, directory: pathlib.Path, time_limit: float = 0.0
) -> UpdateRule:
    """Meta-trains a rule, or continues a stopped run.

    Args:
        settings: The settings.
        directory: Folder of the run.
        time_limit: Minutes after which to stop; 0 for none.

    Returns:
        The rule of the best validation.

    Raises:
        run_folder.OtherSettings: If the folder holds a run with different
            settings.
    """
    families = _problems(settings)
    lengths = _lengths(settings)
    learner = keras_meta.OptimizerLearner(
        _rule(settings),
        families,
        settings.steps,
        meta_gradient=_meta_gradient(settings),
        start=_start(settings),
        evaluation_steps=settings.validation_steps,
        objective=settings.objective,
        step_weights=_step_weights(settings),
        tolerated_divergences=_TOLERATED_DIVERGENCES,
    )
    learner.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(
                settings.meta_rate, _meta_steps(settings, lengths)
            ),
            epsilon=1e-7 * settings.clip,
            global_clipnorm=settings.clip,
        )
    )
    progress = checkpoint.resume(learner, directory, settings)
    epochs_done = len(progress.history)
    publish = functools.partial(_publish, settings, progress, directory)
    durable_files.write_json(
        directory / "settings.json", run_folder.as_json(settings)
    )
    if epochs_done:
        publish()
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
            checkpoint.NoteProgress(progress),
            _KeepBest(progress),
            checkpoint.Checkpoint(
                directory, settings, progress, publish=publish
            ),
            _TimeLimit(time_limit),
        ],
        verbose=2,
    )
    learner.rule.set_weights(progress.best)
    return learner.rule


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
    """Returns the number of steps in an optimization, for each epoch."""
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


def _meta_steps(settings: Settings, lengths: Sequence[int]) -> int:
    """Returns the number of meta-steps in training.

    There is one for each window of a batch, or one for a batch if runs are
    kept, of which it takes a window each.

    Args:
        settings: The settings.
        lengths: Number of steps in an optimization, for each epoch.
    """
    windows = sum(lengths) // settings.truncation
    per_batch = len(lengths) if settings.kept_groups else windows
    return settings.validate_every * per_batch


def _start(settings: Settings) -> keras_meta.Kept | str:
    if settings.kept_groups:
        return keras_meta.Kept(settings.instances, settings.kept_groups)
    return "drawn"


def _meta_gradient(settings: Settings) -> keras_meta.MetaGradient:
    strategy = STRATEGIES.get(settings.meta_gradient)
    if strategy is not None:
        return strategy(
            settings.particles,
            settings.sigma,
            settings.truncation,
            seed=settings.seed,
        )
    through = keras_meta.FirstOrder()
    if settings.second_order:
        through = keras_meta.Unrolled()
    return keras_meta.Truncated(settings.truncation, through)


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
