"""Distilling MNIST into a few images."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any
from typing import ClassVar
from typing import NamedTuple

import keras
import numpy as np
import tensorflow_datasets as tfds

import keras_meta
from experiments import checkpoint
from experiments import run_folder
from keras_meta import durable_files
from keras_meta.outer.distilled import Distilled

_CLASSES = 10
_MEAN, _DEVIATION = 0.1307, 0.3081
_BASELINE = "real_images.json"
_EPOCHS = 20
# Of Adam's mean gradient, as published.
_MOMENTUM = 0.5

NETWORKS = ("lenet", "mlp")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a run depends on.

    Attributes:
        network: The network, one of `NETWORKS`.
        start: Initial weights that the images are for: `"initial"`, one; or
            `"drawn"`, all that the initializers may draw.
        steps: Training steps of an epoch; each takes an image of each digit.
        epochs: How often training goes through the images.
        starts: Initial weights that a meta-step learns from.
        first_images: Where the images begin, `"noise"` or `"real"`.
        meta_steps: Updates of the images and the rates.
        meta_rate: Rate of Adam for them, which falls to 0 as a cosine.
        batch_size: Real images of a meta-step.
        rate: The first rate of all training steps.
        rate_steps: Updates of the rates for real images.
        draws: Draws of real images to compare with.
        initializations: New initial weights that images are tested with.
        seed: Seed of all.
        learned_labels: Whether the labels are learned too.
    """

    # What the learned images do not depend on.
    MAY_DIFFER: ClassVar[tuple[str, ...]] = ("draws", "initializations")

    network: str
    start: str
    steps: int
    epochs: int
    starts: int
    first_images: str
    meta_steps: int
    meta_rate: float
    batch_size: int
    rate: float
    rate_steps: int
    draws: int
    initializations: int
    seed: int
    learned_labels: bool = False


class Data(NamedTuple):
    """Images, `[n, 28, 28, 1]`, standardized, and their digits.

    Attributes:
        training: The images and the digits.
        test: The same.
    """

    training: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


class Result(NamedTuple):
    """What came out.

    Attributes:
        distilled: The images and the rates.
        accuracies: Test accuracies in percent, one for each initial weights.
        plain_accuracies: The same of models that plain Keras trains, the
            first few.
        real: Test accuracies with real images instead, their rates tuned.
        progress: The history of training.
    """

    distilled: Distilled
    accuracies: np.ndarray
    plain_accuracies: np.ndarray
    real: np.ndarray
    progress: checkpoint.Progress


def load(data_dir: str | None) -> Data:
    """Reads MNIST.

    Args:
        data_dir: Folder of the prepared data sets.
    """
    parts = tfds.load(
        "mnist",
        split=["train", "test"],
        data_dir=data_dir,
        batch_size=-1,
        as_supervised=True,
    )
    return Data(*((_scaled(x), y) for x, y in tfds.as_numpy(parts)))


def run(data: Data, settings: Settings, output: pathlib.Path) -> Result:
    """Learns images, or goes on with it, and tests them.

    Args:
        data: MNIST.
        settings: The settings.
        output: Folder of the run.
    """
    real = _real_images(data, settings, output)
    learner = _learner(settings)
    if settings.first_images == "real":
        learner.x.assign(_drawn_images(data, settings, 0))
        learner.update_rule.rates.assign(real["learning_rates"])
    progress = checkpoint.resume(learner, output, settings)
    _fit(learner, data, settings, output, progress)
    accuracies = accuracies_of(learner, data, settings.initializations)
    return Result(
        learner.distilled,
        accuracies,
        _plain_accuracies(learner, data, settings),
        np.array(real["accuracies"]),
        progress,
    )


def make_network(name: str) -> keras.Model:
    """Returns a network with new weights.

    Args:
        name: `"lenet"`, the published one; or `"mlp"`, its dense layers
            alone, which cost a tenth of it.
    """
    layers = keras.layers
    drawn = {"kernel_initializer": "glorot_normal"}
    relu = {"activation": "relu", **drawn}
    convolutions = [
        layers.Conv2D(6, 5, padding="same", **relu),
        layers.MaxPooling2D(),
        layers.Conv2D(16, 5, **relu),
        layers.MaxPooling2D(),
    ]
    return keras.Sequential(
        [
            keras.Input([28, 28, 1]),
            *(convolutions if name == "lenet" else []),
            layers.Flatten(),
            layers.Dense(120, **relu),
            layers.Dense(84, **relu),
            layers.Dense(_CLASSES, **drawn),
        ]
    )


def accuracies_of(
    learner: keras_meta.DatasetDistillation, data: Data, initializations: int
) -> np.ndarray:
    """Returns test accuracies in percent, one for each initial weights.

    Args:
        learner: Holds the images.
        data: MNIST.
        initializations: How many initial weights, if they are drawn.
    """
    x, y = data.test
    if learner.start == "drawn":
        predictions = learner.predict_starts(x, initializations)
    else:
        predictions = learner(x).numpy()[np.newaxis]
    return 100 * np.mean(np.argmax(predictions, -1) == y, axis=-1)


def _learner(settings: Settings) -> keras_meta.DatasetDistillation:
    keras.utils.set_random_seed(settings.seed)
    learner = keras_meta.DatasetDistillation(
        make_network(settings.network),
        steps=settings.steps,
        epochs=settings.epochs,
        start=settings.start,
        starts=settings.starts,
        learned_labels=settings.learned_labels,
        learning_rate=settings.rate,
        seed=settings.seed,
    )
    _compile(learner, settings.meta_rate, settings.meta_steps)
    return learner


def _compile(learner, rate: float, steps: int) -> None:
    schedule = keras.optimizers.schedules.CosineDecay(rate, steps)
    learner.compile(
        keras.optimizers.Adam(schedule, beta_1=_MOMENTUM),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )


def _fit(learner, data, settings, output, progress) -> None:
    """Learns the images, from where an earlier process stopped."""
    steps = max(settings.meta_steps // _EPOCHS, 1)
    learner.fit(
        *data.training,
        batch_size=settings.batch_size,
        steps_per_epoch=steps,
        initial_epoch=progress.iterations // steps,
        epochs=-(-settings.meta_steps // steps),
        callbacks=[
            checkpoint.NoteProgress(progress),
            checkpoint.Checkpoint(output, settings, progress),
            _Print(),
        ],
        verbose=0,
    )


class _Print(keras.callbacks.Callback):
    """Prints a line after each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        print(
            f"{int(self.model.optimizer.iterations.numpy()):6} meta-steps: "
            f"loss {logs['loss']:.4f}, accuracy {100 * logs['accuracy']:.2f} % "
            "on training images",
            flush=True,
        )


def _real_images(
    data: Data, settings: Settings, output: pathlib.Path
) -> dict[str, Any]:
    """Tests real images, whose rates alone are learned.

    Returns:
        `"accuracies"`, of all draws of images and initial weights;
        `"learning_rates"`, of the first draw, `[steps]`.
    """
    known = run_folder.read_json(
        output / _BASELINE, "real images are tested again"
    )
    if known is not None:
        run_folder.check_settings(
            output / _BASELINE,
            known["settings"],
            settings,
            run_folder.start_afresh(output),
        )
        return known
    learner = _learner(settings)
    learner.x.trainable = learner.y.trainable = False
    accuracies, rates = [], []
    each = max(settings.initializations // settings.draws, 1)
    for draw in range(settings.draws):
        learner.x.assign(_drawn_images(data, settings, draw))
        # Rates move as far as images do not.
        _compile(learner, 10 * settings.meta_rate, settings.rate_steps)
        learner.fit(
            *data.training,
            batch_size=settings.batch_size,
            steps_per_epoch=settings.rate_steps,
            verbose=0,
        )
        rates.append(learner.update_rule.rates.numpy().tolist())
        accuracies += accuracies_of(learner, data, each).tolist()
        print(
            f"Real images, draw {draw}: test accuracy "
            f"{np.mean(accuracies[-each:]):.2f} %",
            flush=True,
        )
    record = {
        "settings": run_folder.as_json(settings),
        "accuracies": accuracies,
        "learning_rates": rates[0],
    }
    durable_files.write_json(output / _BASELINE, record)
    return record


def _drawn_images(data: Data, settings: Settings, draw: int) -> np.ndarray:
    """Returns random training images, one of each digit for each step."""
    rng = np.random.default_rng([settings.seed, draw])
    x, y = data.training
    of_digit = [
        rng.choice(np.flatnonzero(y == digit), settings.steps, replace=False)
        for digit in range(_CLASSES)
    ]
    return x[np.stack(of_digit, axis=1)]


def _plain_accuracies(learner, data: Data, settings: Settings) -> np.ndarray:
    """Returns test accuracies of models that plain Keras trains."""
    if settings.start == "initial":
        models = [learner.train()]
    else:
        keras.utils.set_random_seed(settings.seed + 1)
        models = [
            learner.train(make_network(settings.network)) for _ in range(3)
        ]
    x, y = data.test
    return np.array(
        [100 * np.mean(model(x).numpy().argmax(-1) == y) for model in models]
    )


def _scaled(images: np.ndarray) -> np.ndarray:
    return (images.astype("float32") / 255 - _MEAN) / _DEVIATION
