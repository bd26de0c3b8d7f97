"""Schedules of learning rates, learned from windows of a run."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow_datasets as tfds

import keras_meta

METHODS = ("truncated", "pes", "unrolled")
# Where the toy problem begins.
_PLACE = 1.0, 1.0
_CLASSES = 10
# Of the initial weights and minibatches in a test.
_TEST_SEED = 2**20


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a comparison depends on.

    Attributes:
        toy_steps: Steps of a run of the toy problem.
        toy_window: Steps of a window.
        toy_meta_steps: Meta-steps, one after each window.
        toy_log_rate: Logarithm of the rate to begin with.
        toy_meta_rate: Rate of Adam for the schedule.
        toy_particles: Pairs of particles.
        toy_sigma: Standard deviation of their perturbations.
        steps: Steps of a training on MNIST.
        window: Steps of a window.
        rate: The rate to begin with.
        batch_size: Images of a step.
        units: Units of the hidden layer.
        seconds: CPU seconds of one thread that each method takes.
        meta_rate: Rate of Adam for the schedule.
        particles: Pairs of particles.
        sigma: Standard deviation of their perturbations.
        test_runs: Trainings in a test.
        seeds: Repetitions on MNIST.
    """

    toy_steps: int
    toy_window: int
    toy_meta_steps: int
    toy_log_rate: float
    toy_meta_rate: float
    toy_particles: int
    toy_sigma: float
    steps: int
    window: int
    rate: float
    batch_size: int
    units: int
    seconds: float
    meta_rate: float
    particles: int
    sigma: float
    test_runs: int
    seeds: int


class Toy(NamedTuple):
    """What a method learns on the toy problem.

    Attributes:
        path: Logarithms of the first and the last rate, `[meta-steps, 2]`.
        loss: The mean loss of a run after the last meta-step.
    """

    path: np.ndarray
    loss: float


class Learned(NamedTuple):
    """What a method learns on MNIST.

    Attributes:
        log_rates: Logarithms of the first and the last rate.
        losses: Validation losses of trainings with them, after each window,
            the mean over trainings, `[windows]`.
        meta_steps: Meta-steps that were taken.
    """

    log_rates: np.ndarray
    losses: np.ndarray
    meta_steps: int


def valley(x: Any, library: Any) -> Any:
    """Returns the loss of the toy problem.

    Args:
        x: Places, `[..., 2]`.
        library: `numpy` or `keras.ops`.
    """
    first, second = x[..., 0], x[..., 1]
    ridge = library.square(library.sin(second))
    return (
        library.sqrt(library.square(first) + 5)
        - math.sqrt(5)
        + ridge * library.exp(-5 * library.square(first))
        + 0.25 * library.abs(second - 100)
    )


def valley_slope(x: np.ndarray) -> np.ndarray:
    """Returns the gradient of `valley`, of the shape of `x`."""
    first, second = x[..., 0], x[..., 1]
    well = np.exp(-5 * first**2)
    return np.stack(
        [
            first / np.sqrt(first**2 + 5)
            - 10 * first * well * np.sin(second) ** 2,
            np.sin(2 * second) * well + 0.25 * np.sign(second - 100),
        ],
        axis=-1,
    )


def toy_loss(log_rates: np.ndarray, settings: Settings) -> np.ndarray:
    """Returns the mean loss after the windows of a run.

    Args:
        log_rates: Logarithms of the first and the last rate, `[..., 2]`.
        settings: The settings.
    """
    x = np.broadcast_to(_PLACE, log_rates.shape).astype(float)
    total, last = 0.0, settings.toy_steps - 1
    for step in range(settings.toy_steps):
        share = step / last
        log_rate = (1 - share) * log_rates[..., 0] + share * log_rates[..., 1]
        x = x - np.exp(log_rate)[..., None] * valley_slope(x)
        if (step + 1) % settings.toy_window == 0:
            total = total + valley(x, np)
    return total * settings.toy_window / settings.toy_steps


def learn_toy(method: str, settings: Settings) -> Toy:
    """Learns the schedule of the toy problem."""
    # The place is the output for the input 1.
    place = keras.layers.Dense(2, use_bias=False, kernel_initializer="ones")
    model = keras.Sequential([keras.Input([1]), place])
    rule = keras_meta.GradientDescent(
        math.exp(settings.toy_log_rate), learn="schedule"
    )
    learner = keras_meta.HyperparameterLearner(
        model,
        rule,
        settings.toy_steps,
        start="initial",
        meta_gradient=_meta_gradient(
            method,
            settings.toy_window,
            settings.toy_particles,
            settings.toy_sigma,
            seed=0,
        ),
    )
    learner.compile(
        keras.optimizers.Adam(settings.toy_meta_rate),
        lambda y_true, y_pred: valley(y_pred, keras.ops),
        # There are many particles, and hardly anything to compute for one.
        jit_compile=method == "pes",
    )
    path = [rule.rates[0].numpy()]
    data = np.ones([1, 1]), np.zeros([1, 2])
    learner.fit(
        *data,
        validation_data=data,
        validation_freq=2,
        steps_per_epoch=settings.toy_meta_steps,
        callbacks=[
            keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: path.append(
                    rule.rates[0].numpy()
                )
            )
        ],
        verbose=0,
    )
    path = np.array(path, float)
    return Toy(path, float(toy_loss(path[-1], settings)))


def load(data_dir: str | None) -> tuple[Any, Any]:
    """Returns MNIST: images and digits to train on, and to validate on.

    Args:
        data_dir: Folder of the prepared data sets.
    """
    pairs = (
        tfds.as_numpy(
            tfds.load(
                "mnist",
                split=split,
                data_dir=data_dir,
                batch_size=-1,
                as_supervised=True,
            )
        )
        for split in ("train", "test")
    )
    training, validation = ((x.astype("float32") / 255, y) for x, y in pairs)
    return training, tuple(values[:1000] for values in validation)


def learn(method: str, data: Any, settings: Settings, seed: int) -> Learned:
    """Learns a schedule on MNIST for the given time.

    The time is that of the process, so nothing else may run in it. Tracing
    and tests do not count.

    Args:
        method: One of `METHODS`.
        data: What `load` returns.
        settings: The settings.
        seed: Seed of weights, minibatches and particles.
    """
    meta_gradient = _meta_gradient(
        method, settings.window, settings.particles, settings.sigma, seed
    )
    rule = keras_meta.GradientDescent(settings.rate, learn="schedule")
    learner = _learner(rule, meta_gradient, settings, seed)
    learner.compile(
        keras.optimizers.Adam(settings.meta_rate), _loss(), jit_compile=False
    )
    clock = _Clock(settings.seconds)
    _fit(learner, data, settings, epochs=10**6, callbacks=[clock])
    return Learned(
        rule.rates[0].numpy(),
        tested(rule.rates[0].numpy(), data, settings),
        clock.meta_steps,
    )


def tested(log_rates: np.ndarray, data: Any, settings: Settings) -> np.ndarray:
    """Returns validation losses of trainings after each window.

    They are the mean over trainings from new weights, `[windows]`.

    Args:
        log_rates: Logarithms of the first and the last rate.
        data: What `load` returns.
        settings: The settings.
    """
    rule = keras_meta.GradientDescent(1.0, learn="schedule")
    windows = keras_meta.Truncated(settings.window, keras_meta.FirstOrder())
    learner = _learner(rule, windows, settings, _TEST_SEED)
    rule.rates[0].assign(log_rates)
    learner.compile(keras.optimizers.SGD(0.0), _loss(), jit_compile=False)
    count = settings.steps // settings.window
    epochs = settings.test_runs * count
    history = _fit(learner, data, settings, epochs=epochs)
    losses = np.reshape(history.history["loss"], [-1, count])
    return losses.mean(axis=0)


class _Clock(keras.callbacks.Callback):
    """Stops training when its time is over. The first step is tracing."""

    def __init__(self, seconds: float):
        super().__init__()
        self._seconds = seconds
        self._first: float | None = None
        self.meta_steps = 0

    def on_epoch_end(self, epoch, logs=None):
        self.meta_steps += 1
        now = time.process_time()
        if self._first is None:
            self._first = now
        self.model.stop_training = now - self._first >= self._seconds


def _learner(
    rule: keras_meta.UpdateRule,
    meta_gradient: keras_meta.MetaGradient,
    settings: Settings,
    seed: int,
) -> keras_meta.HyperparameterLearner:
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input([28, 28, 1]),
            layers.Flatten(),
            layers.Dense(settings.units, "relu"),
            layers.Dense(_CLASSES),
        ]
    )
    return keras_meta.HyperparameterLearner(
        model,
        rule,
        settings.steps,
        start="drawn",
        meta_gradient=meta_gradient,
        seed=seed,
    )


def _fit(
    learner: keras_meta.HyperparameterLearner,
    data: Any,
    settings: Settings,
    **options: Any,
) -> keras.callbacks.History:
    """Takes a meta-step an epoch, so that each has logs of its own."""
    training, validation = data
    return learner.fit(
        *training,
        batch_size=settings.batch_size,
        steps_per_epoch=1,
        validation_data=validation,
        validation_batch_size=len(validation[1]),
        validation_freq=10**7,
        verbose=0,
        **options,
    )


def _meta_gradient(
    method: str, window: int, particles: int, sigma: float, seed: int
) -> keras_meta.MetaGradient:
    return {
        "truncated": lambda: keras_meta.Truncated(window),
        "pes": lambda: keras_meta.PersistentES(
            particles, sigma=sigma, length=window, seed=seed
        ),
        "unrolled": keras_meta.Unrolled,
    }[method]()


def _loss() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)
