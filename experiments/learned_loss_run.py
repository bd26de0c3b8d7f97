"""Few-shot regression of sine waves by one inner loss."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

import keras_meta
from keras_meta import episodes
from keras_meta.evaluation import Interval

LOSSES = ("mse", "huber", "mae", "log_cosh", "learned")
# Keeps test tasks apart from training tasks of any reasonable seed.
_TEST_SEED_OFFSET = 2**32
_TESTED_AT_ONCE = 100
_STEPS_PER_EXECUTION = 50


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a comparison depends on.

    Attributes:
        wrong: Shares of support labels that are wrong, one for each setting.
        iterations: Outer iterations.
        meta_batch: Tasks in an outer iteration.
        shots: Support points of a task, and its query points.
        steps: Inner steps, in training and in tests.
        rates: Where the learned rates of the inner loop begin. The best on
            the last training tasks is tested.
        meta_rate: Rate of the outer optimizer, Adam.
        units: Sizes of the hidden layers of the learned loss.
        base: The loss that it begins with.
        validation_tasks: Training tasks that choose the first rate.
        test_tasks: New tasks.
        seed: Seed of weights and tasks.
    """

    wrong: tuple[float, ...]
    iterations: int
    meta_batch: int
    shots: int
    steps: int
    rates: tuple[float, ...]
    meta_rate: float
    units: tuple[int, ...]
    base: str
    validation_tasks: int
    test_tasks: int
    seed: int


class Measured(NamedTuple):
    """What is measured of an inner loss.

    Attributes:
        rate: The first rate that was chosen.
        validation: Query error on training tasks, with that rate.
        test: Query error on new tasks.
        slopes: Derivative of the loss by the residual, `[labels, residuals]`.
        seconds: Time of training, all rates together.
    """

    rate: float
    validation: float
    test: Interval
    slopes: np.ndarray
    seconds: float


def measure(
    loss: str,
    wrong: float,
    settings: Settings,
    labels: Sequence[float],
    residuals: np.ndarray,
) -> Measured:
    """Trains with each first rate and tests the best of the learners.

    Args:
        loss: One of `LOSSES`.
        wrong: Share of support labels that are wrong.
        settings: The settings.
        labels: Labels at which to look at the derivative of the loss.
        residuals: Predictions less label, where to look at it.
    """
    start = time.monotonic()
    found = {}
    for rate in settings.rates:
        learner = _trained(loss, rate, wrong, settings)
        error = _error(learner, _training_tasks(wrong, settings), settings)
        found[rate] = error, learner
    seconds = time.monotonic() - start
    rate = min(found, key=lambda rate: found[rate][0])
    validation, learner = found[rate]
    test = keras_meta.evaluate_tasks(
        learner, _test_tasks(wrong, settings), settings.test_tasks
    )
    return Measured(
        rate,
        validation,
        test["loss"],
        np.stack(
            [
                slopes_of(learner.inner_loss, label, residuals)
                for label in labels
            ]
        ),
        seconds,
    )


def make_loss(name: str, settings: Settings) -> keras.losses.Loss | keras.Layer:
    """Returns an inner loss by its name."""
    if name == "learned":
        return keras_meta.LossNetwork(
            settings.units, base=settings.base, seed=settings.seed
        )
    return {
        "mse": keras.losses.MeanSquaredError(),
        "huber": keras.losses.Huber(),
        "mae": keras.losses.MeanAbsoluteError(),
        "log_cosh": keras.losses.LogCosh(),
    }[name]


def slopes_of(
    loss: keras.losses.Loss | keras.Layer, label: float, residuals: np.ndarray
) -> np.ndarray:
    """Returns the derivative of a loss by the prediction.

    Args:
        loss: The loss.
        label: The label.
        residuals: Predictions less the label.
    """
    function = loss if isinstance(loss, keras.Layer) else loss.call
    predictions = tf.constant(label + residuals[:, np.newaxis], tf.float32)
    labels = tf.fill(tf.shape(predictions), label)
    with tf.GradientTape() as tape:
        tape.watch(predictions)
        values = function(labels, predictions)
    return tape.gradient(values, predictions).numpy()[:, 0]


def tasks(
    wrong: float, settings: Settings, seed: int, at_once: int
) -> tf.data.Dataset:
    """Returns episodes, some of whose support labels are wrong.

    A wrong label is drawn from -5 to 5, where waves are. Labels of queries
    are right.

    Args:
        wrong: The share of wrong labels.
        settings: The settings.
        seed: Seed of the episodes.
        at_once: Tasks in a batch.
    """
    clean = episodes.sinusoids(
        shots=settings.shots,
        queries=settings.shots,
        tasks=at_once,
        seed=seed,
    )

    def spoil(index, episode):
        x, y = episode
        labels = x["support_y"]
        seeds = tf.random.split(tf.stack([tf.constant(seed, tf.int64), index]))
        shape = tf.shape(labels)
        is_wrong = tf.random.stateless_uniform(shape, seeds[0]) < wrong
        drawn = tf.random.stateless_uniform(shape, seeds[1], -5.0, 5.0)
        return {**x, "support_y": tf.where(is_wrong, drawn, labels)}, y

    return clean.enumerate().map(spoil)


def _trained(
    loss: str, rate: float, wrong: float, settings: Settings
) -> keras_meta.MAML:
    keras.utils.set_random_seed(settings.seed)
    learner = keras_meta.MAML(
        keras_meta.models.sinusoid_mlp(),
        keras_meta.GradientDescent(rate, learn="layer_step"),
        settings.steps,
        inner_loss=make_loss(loss, settings),
    )
    schedule = keras.optimizers.schedules.CosineDecay(
        settings.meta_rate, settings.iterations
    )
    learner.compile(
        keras.optimizers.Adam(schedule, clipnorm=10.0),
        "mse",
        steps_per_execution=min(_STEPS_PER_EXECUTION, settings.iterations),
        # XLA takes longer to compile a network as a loss than it saves here.
        jit_compile=False,
    )
    learner.fit(
        tasks(wrong, settings, settings.seed, settings.meta_batch),
        steps_per_epoch=settings.iterations,
        verbose=0,
    )
    return learner


def _training_tasks(wrong: float, settings: Settings) -> tf.data.Dataset:
    return tasks(wrong, settings, settings.seed, _TESTED_AT_ONCE)


def _test_tasks(wrong: float, settings: Settings) -> tf.data.Dataset:
    seed = settings.seed + _TEST_SEED_OFFSET
    return tasks(wrong, settings, seed, _TESTED_AT_ONCE)


def _error(
    learner: keras_meta.MAML, data: tf.data.Dataset, settings: Settings
) -> float:
    batches = -(-settings.validation_tasks // _TESTED_AT_ONCE)
    return learner.evaluate(data, steps=batches, verbose=0)
