"""Tuning a small network on Fashion-MNIST, by gradient and by trials.

All methods train the same network for as many steps on the same images, and
choose by the validation loss. What counts at a time is the best model so far.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import tempfile
import time
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_meta

METHODS = ("gradient", "random", "bayesian")
_CLASSES = 10
# What the gradient begins with: Keras's own rate, and a usual momentum.
_FIRST_L2, _FIRST_RATE, _FIRST_MOMENTUM = 1e-4, 0.01, 0.9
# Where trials search.
_L2 = 1e-6, 1e-2
_RATES = 1e-3, 0.3
_MOMENTA = 0.0, 0.99
_PATIENCE = 3
# The loss that Keras logs for validation data holds the regularizers too.
_METRIC = "cross_entropy"
_ENDLESS = 10**6
# Of initial weights in a final training.
_FINAL_SEED = 1000


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a comparison depends on.

    Attributes:
        training: Training examples.
        validation: Validation examples.
        units: Units of the hidden layers.
        batch_size: Examples of a training step.
        steps: Steps of a training, a multiple of those of an epoch.
        seconds: CPU seconds of one thread that each method takes.
        meta_rate: Rate of Adam for hyperparameters that learn by gradient.
        final_trainings: Trainings with the hyperparameters found.
    """

    training: int
    validation: int
    units: tuple[int, ...]
    batch_size: int
    steps: int
    seconds: float
    meta_rate: float
    final_trainings: int

    @property
    def epochs(self) -> int:
        """Epochs of a training."""
        return self.steps // (self.training // self.batch_size)


class Data(NamedTuple):
    """Images, `[n, 28, 28, 1]` of floats in [0, 1], and their classes."""

    training: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Choice:
    """Values of the hyperparameters.

    Attributes:
        l2: Strengths of L2, one for each layer.
        rates: Rates, one for each tensor.
        momenta: Momenta, one for each tensor.
    """

    l2: list[float]
    rates: list[float]
    momenta: list[float]


class Point(NamedTuple):
    """A model that is the best so far.

    Attributes:
        seconds: CPU time until then, without tests.
        wall: Wall time until then, without tests.
        validation: Its validation loss.
        test: Its test loss.
    """

    seconds: float
    wall: float
    validation: float
    test: float


class Tuned(NamedTuple):
    """What a method found.

    Attributes:
        points: Models that were the best so far.
        choice: The hyperparameters of the last of them.
        trainings: Trainings that were finished.
        first: CPU time of the first training, with what compiles before it.
        seconds: CPU time of all.
        wall: Wall time of all.
    """

    points: list[Point]
    choice: Choice
    trainings: int
    first: float
    seconds: float
    wall: float


def load(settings: Settings, seed: int, data_dir: str | None) -> Data:
    """Reads Fashion-MNIST.

    Args:
        settings: The settings.
        seed: Chooses the training and the validation examples.
        data_dir: Folder of the prepared data sets.
    """
    (x, y), test = (
        tfds.as_numpy(
            tfds.load(
                "fashion_mnist",
                split=split,
                data_dir=data_dir,
                batch_size=-1,
                as_supervised=True,
            )
        )
        for split in ("train", "test")
    )
    count = settings.training + settings.validation
    chosen = np.random.default_rng(seed).permutation(len(x))[:count]
    x, y = _scaled(x[chosen]), y[chosen]
    return Data(
        (x[: settings.training], y[: settings.training]),
        (x[settings.training :], y[settings.training :]),
        (_scaled(test[0]), test[1]),
    )


def tune(method: str, data: Data, settings: Settings, seed: int) -> Tuned:
    """Tunes by a method for the given time.

    The time is that of the process, so nothing else may run in it.

    Args:
        method: One of `METHODS`.
        data: The data.
        settings: The settings.
        seed: Seed of the method.
    """
    keras.utils.set_random_seed(seed)
    best = _Best(data, settings.seconds)
    if method == "gradient":
        _by_gradient(best, data, settings, seed)
    else:
        _by_trials(best, method, data, settings, seed)
    return best.tuned()


def final_losses(
    choice: Choice, data: Data, settings: Settings
) -> list[tuple[float, float]]:
    """Trains anew, from several initial weights, and keeps the best epoch.

    Args:
        choice: The hyperparameters.
        data: The data.
        settings: The settings.

    Returns:
        Validation and test loss of each training.
    """
    losses = []
    for seed in range(settings.final_trainings):
        keras.utils.set_random_seed(_FINAL_SEED + seed)
        model = _network(settings, map(keras.regularizers.L2, choice.l2))
        rule = _rule(model, settings)
        rule.log_rates.assign(np.log(choice.rates))
        momenta = np.asarray(choice.momenta)
        rule.momentum_logits.assign(np.log(momenta) - np.log1p(-momenta))
        model.compile(
            keras_meta.optimizers.LearnedOptimizer(rule),
            _loss(),
            metrics=[_metric()],
        )
        best = _Best(data, np.inf)
        _train(model, data, settings, [_Epochs(best, lambda: choice)])
        losses.append(best.points[-1][2:])
    return losses


def at_times(points: Sequence[Point], times: np.ndarray) -> np.ndarray:
    """Returns the best points so far at some times, `[times, 4]`.

    Args:
        points: Models that were the best so far.
        times: CPU times. Before the first point, losses are NaN.
    """
    before = Point(0.0, 0.0, np.nan, np.nan)
    seconds = [point.seconds for point in points]
    places = np.searchsorted(seconds, times, side="right")
    return np.array([before, *points])[places]


def shared(choice: Choice) -> Choice:
    """Returns a choice with one rate and one momentum for all tensors."""
    momenta = np.asarray(choice.momenta)
    logit = np.mean(np.log(momenta) - np.log1p(-momenta))
    tensors = len(choice.rates)
    return Choice(
        choice.l2,
        [float(np.exp(np.mean(np.log(choice.rates))))] * tensors,
        [float(1 / (1 + np.exp(-logit)))] * tensors,
    )


class _Best:
    """Remembers the best model, and stops the time while it is tested."""

    def __init__(self, data: Data, seconds: float):
        self._data = data
        self._limit = seconds
        self._first = time.process_time(), time.monotonic()
        self._tests = np.zeros(2)
        self.points: list[Point] = []
        self.choice: Choice | None = None
        self.trainings: list[float] = []

    @property
    def elapsed(self) -> np.ndarray:
        """CPU time and wall time so far."""
        now = time.process_time(), time.monotonic()
        return np.subtract(now, self._first) - self._tests

    @property
    def is_over(self) -> bool:
        """Whether the time is up."""
        return bool(self.elapsed[0] >= self._limit)

    def see(self, model: keras.Model, loss: float, choice: Choice) -> None:
        """Looks at a model that was trained in time.

        Args:
            model: The model.
            loss: Its validation loss.
            choice: Its hyperparameters.
        """
        seconds, wall = self.elapsed
        if seconds > self._limit or not np.isfinite(loss):
            return
        if self.points and loss >= self.points[-1].validation:
            return
        with self._stopped():
            x, y = self._data.test
            test = float(tf.reduce_mean(_loss()(y, model(x, training=False))))
        self.points.append(Point(seconds, wall, loss, test))
        self.choice = choice

    def training_ends(self) -> None:
        """Counts a training."""
        self.trainings.append(float(self.elapsed[0]))

    def tuned(self) -> Tuned:
        """Returns what was found.

        Raises:
            ValueError: If the time was too short for a training.
        """
        if not (self.trainings and self.points):
            raise ValueError(
                f"No training has ended within {self._limit:g} s of CPU time. "
                "Take more: --tuning_seconds."
            )
        seconds, wall = self.elapsed
        return Tuned(
            self.points,
            self.choice,
            len(self.trainings),
            self.trainings[0],
            seconds,
            wall,
        )

    @contextlib.contextmanager
    def _stopped(self) -> Iterator[None]:
        before = self.elapsed
        yield
        self._tests += self.elapsed - before


def _by_gradient(
    best: _Best, data: Data, settings: Settings, seed: int
) -> None:
    decays = [
        keras_meta.LearnedL2(_FIRST_L2, name=f"l2_{i}")
        for i in range(len(settings.units) + 1)
    ]
    model = _network(settings, decays)
    rule = _rule(model, settings)
    tuner = keras_meta.HyperparameterLearner(
        model, rule, settings.steps, start="drawn", seed=seed
    )
    tuner.compile(
        keras.optimizers.Adam(settings.meta_rate, global_clipnorm=1.0),
        _loss(),
        # XLA would take longer to compile than it saves.
        jit_compile=False,
    )

    def choice():
        return Choice(
            [float(decay.strength()) for decay in decays],
            np.exp(rule.log_rates).tolist(),
            tf.sigmoid(rule.momentum_logits).numpy().tolist(),
        )

    tuner.fit(
        *data.training,
        batch_size=settings.batch_size,
        epochs=_ENDLESS,
        validation_data=data.validation,
        validation_batch_size=settings.validation,
        validation_freq=_ENDLESS,
        steps_per_epoch=1,
        callbacks=[_MetaSteps(best, choice)],
        verbose=0,
    )


class _MetaSteps(keras.callbacks.Callback):
    """Looks at the model that each meta-step trains."""

    def __init__(self, best: _Best, choice: Callable[[], Choice]):
        super().__init__()
        self._best = best
        self._choice = choice
        self._before = choice()

    def on_epoch_end(self, epoch, logs=None):
        # The loss is that of the hyperparameters before the meta-step.
        self._best.see(self.model.model, logs["loss"], self._before)
        self._best.training_ends()
        self._before = self._choice()
        self.model.stop_training = self._best.is_over


def _by_trials(
    best: _Best, method: str, data: Data, settings: Settings, seed: int
) -> None:
    # Only this comparison needs it.
    keras_tuner = importlib.import_module("keras_tuner")

    class TimeIsUp(keras_tuner.errors.FatalError):
        """Ends the search."""

    class Trials(keras_tuner.HyperModel):
        def build(self, hp):
            layers = range(len(settings.units) + 1)
            logarithmic = {"sampling": "log"}
            l2 = [hp.Float(f"l2_{i}", *_L2, **logarithmic) for i in layers]
            model = _network(settings, map(keras.regularizers.L2, l2))
            model.compile(
                keras.optimizers.SGD(
                    hp.Float("rate", *_RATES, **logarithmic),
                    momentum=hp.Float("momentum", *_MOMENTA),
                ),
                _loss(),
                metrics=[_metric()],
                jit_compile=False,
                steps_per_execution=settings.training // settings.batch_size,
            )
            return model

        def fit(self, hp, model, callbacks, **kwargs):
            values = hp.values
            tensors = len(model.trainable_variables)
            found = Choice(
                [values[f"l2_{i}"] for i in range(len(settings.units) + 1)],
                [values["rate"]] * tensors,
                [values["momentum"]] * tensors,
            )
            history = _train(
                model,
                data,
                settings,
                [
                    *callbacks,
                    _Epochs(best, lambda: found),
                    keras.callbacks.EarlyStopping(
                        f"val_{_METRIC}", patience=_PATIENCE, mode="min"
                    ),
                    keras.callbacks.TerminateOnNaN(),
                ],
            )
            if best.is_over:
                raise TimeIsUp("The time is up.")
            best.training_ends()
            return history

    tuners = {
        "random": keras_tuner.RandomSearch,
        "bayesian": keras_tuner.BayesianOptimization,
    }
    with tempfile.TemporaryDirectory() as folder:
        tuner = tuners[method](
            Trials(),
            objective=keras_tuner.Objective(f"val_{_METRIC}", "min"),
            max_trials=_ENDLESS,
            max_consecutive_failed_trials=_ENDLESS,
            seed=seed,
            directory=folder,
        )
        with contextlib.suppress(TimeIsUp):
            tuner.search(verbose=0)


class _Epochs(keras.callbacks.Callback):
    """Looks at the model after each epoch."""

    def __init__(self, best: _Best, choice: Callable[[], Choice]):
        super().__init__()
        self._best = best
        self._choice = choice

    def on_epoch_end(self, epoch, logs=None):
        self._best.see(self.model, logs[f"val_{_METRIC}"], self._choice())
        if self._best.is_over:
            self.model.stop_training = True


def _train(
    model: keras.Model, data: Data, settings: Settings, callbacks: list[Any]
) -> keras.callbacks.History:
    return model.fit(
        *data.training,
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        validation_data=data.validation,
        validation_batch_size=settings.validation,
        callbacks=callbacks,
        verbose=0,
    )


def _rule(
    model: keras.Model, settings: Settings
) -> keras_meta.LearnedHyperparameters:
    rule = keras_meta.LearnedHyperparameters(
        _FIRST_RATE, momentum=_FIRST_MOMENTUM
    )
    rule.attach(model.trainable_variables, settings.steps)
    # L2 is that of the layers.
    rule.decays.trainable = False
    return rule


def _network(settings: Settings, regularizers: Iterable[Any]) -> keras.Model:
    """Returns the network.

    Args:
        settings: The settings.
        regularizers: One for the kernel of each layer.
    """
    layers = [
        keras.layers.Dense(units, activation, kernel_regularizer=regularizer)
        for (units, activation), regularizer in zip(
            [*((u, "relu") for u in settings.units), (_CLASSES, None)],
            regularizers,
            strict=True,
        )
    ]
    return keras.Sequential(
        [keras.Input([28, 28, 1]), keras.layers.Flatten(), *layers]
    )


def _loss() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _metric() -> keras.metrics.Metric:
    return keras.metrics.SparseCategoricalCrossentropy(
        _METRIC, from_logits=True
    )


def _scaled(images: np.ndarray) -> np.ndarray:
    return images.astype("float32") / 255
