"""Finding wrong labels of MNIST by weights of examples."""

from __future__ import annotations

import dataclasses
import time
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_meta

_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a run depends on.

    Attributes:
        training: Training examples.
        validation: Validation examples, whose labels are right.
        wrong: Fraction of the training labels that are wrong.
        meta_steps: Updates of the weights.
        steps: Training steps before each.
        meta_rate: Rate of Adam for the weights.
        rate: Rate of the training steps, with momentum 0.9.
        final_steps: Training steps of the models that are compared.
        seed: Seed of the choice of examples and of the wrong labels.
    """

    training: int
    validation: int
    wrong: float
    meta_steps: int
    steps: int
    meta_rate: float
    rate: float
    final_steps: int
    seed: int


class Data(NamedTuple):
    """Images, `[n, 28, 28, 1]` of floats in [0, 1], and their digits.

    Attributes:
        training: The images and the digits as given.
        validation: The same.
        test: The same.
        is_wrong: Which digits of the training images are wrong, `[n]`.
    """

    training: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    is_wrong: np.ndarray


class Cleaned(NamedTuple):
    """What was learned of the training examples.

    Attributes:
        weights: Their weights, `[n]`.
        flagged: Which are taken for wrong, `[n]`.
        history: The logs of `fit`, and F1 after each epoch.
        seconds: Wall time of `fit`.
    """

    weights: np.ndarray
    flagged: np.ndarray
    history: dict[str, list[float]]
    seconds: float


def load(settings: Settings, data_dir: str | None) -> Data:
    """Reads MNIST and makes labels wrong.

    Args:
        settings: The settings.
        data_dir: Folder of the prepared data sets.
    """
    (x, y), test = (
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
    rng = np.random.default_rng(settings.seed)
    count = settings.training + settings.validation
    chosen = rng.permutation(len(x))[:count]
    x, y = _scaled(x[chosen]), y[chosen]
    labels, is_wrong = corrupted(y[: settings.training], settings.wrong, rng)
    return Data(
        (x[: settings.training], labels),
        (x[settings.training :], y[settings.training :]),
        (_scaled(test[0]), test[1]),
        is_wrong,
    )


def corrupted(
    labels: np.ndarray, fraction: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Moves a fraction of labels to other classes.

    Args:
        labels: Class numbers, `[n]`.
        fraction: How many to move.
        rng: Draws which, and where to.

    Returns:
        The labels, and which of them are wrong.
    """
    is_wrong = np.zeros(len(labels), bool)
    count = round(fraction * len(labels))
    is_wrong[rng.permutation(len(labels))[:count]] = True
    moves = rng.integers(1, _CLASSES, len(labels))
    return (labels + is_wrong * moves) % _CLASSES, is_wrong


def clean(data: Data, settings: Settings) -> Cleaned:
    """Learns the weight of each training example."""
    keras.utils.set_random_seed(settings.seed)
    initial = 0.5
    weights = keras_meta.ExampleWeights(settings.training, initial)
    tuner = keras_meta.HyperparameterLearner(
        _linear_softmax(),
        keras_meta.Momentum(settings.rate, momentum=0.9),
        settings.steps,
        example_weights=weights,
    )
    tuner.compile(
        keras.optimizers.Adam(settings.meta_rate),
        _loss(),
        metrics=["accuracy"],
    )
    scores = _Scores(weights, initial, data.is_wrong)
    start = time.monotonic()
    epochs = 10
    history = tuner.fit(
        *data.training,
        batch_size=settings.training,
        validation_data=data.validation,
        validation_batch_size=settings.validation,
        epochs=epochs,
        steps_per_epoch=max(settings.meta_steps // epochs, 1),
        callbacks=[scores],
        verbose=0,
    )
    seconds = time.monotonic() - start
    found = weights.numpy()
    return Cleaned(
        found,
        found < initial,
        {**history.history, "f1": scores.values},
        seconds,
    )


class _Scores(keras.callbacks.Callback):
    """Measures after each epoch how well wrong labels are found."""

    def __init__(self, weights, threshold: float, is_wrong: np.ndarray):
        super().__init__()
        self._weights = weights
        self._threshold = threshold
        self._is_wrong = is_wrong
        self.values: list[float] = []

    def on_epoch_end(self, epoch, logs=None):
        flagged = self._weights.numpy() < self._threshold
        self.values.append(f1(flagged, self._is_wrong))


def f1(flagged: np.ndarray, is_wrong: np.ndarray) -> float:
    """Returns the harmonic mean of precision and recall.

    Args:
        flagged: What is taken for wrong, `[n]`.
        is_wrong: What is, `[n]`.
    """
    right = np.sum(flagged & is_wrong)
    return float(2 * right / max(np.sum(flagged) + np.sum(is_wrong), 1))


def accuracies(
    data: Data, cleaned: Cleaned, settings: Settings
) -> dict[str, float]:
    """Returns the test accuracy, in percent, of models trained alike.

    All also train on the validation examples, as the labels there are known
    to be right. They differ in the weights of the training examples.
    """
    count = settings.training
    choices = {
        "oracle": np.where(data.is_wrong, 0.0, 1.0),
        "learned weights": cleaned.weights,
        "unflagged examples": np.where(cleaned.flagged, 0.0, 1.0),
        "validation examples only": np.zeros(count),
        "all examples": np.ones(count),
    }
    return {
        name: _accuracy(data, weights, settings)
        for name, weights in choices.items()
    }


def _accuracy(data: Data, weights: np.ndarray, settings: Settings) -> float:
    keras.utils.set_random_seed(settings.seed)
    x, y = (
        np.concatenate(pair)
        for pair in zip(data.training, data.validation, strict=True)
    )
    weights = np.concatenate([weights, np.ones(settings.validation)])
    model = _linear_softmax()
    model.compile(
        keras.optimizers.SGD(settings.rate, momentum=0.9),
        _loss(),
        metrics=["accuracy"],
    )
    # The rate means the same, whatever the weights add up to.
    whole = (x, y, weights / weights.mean())
    model.fit(
        tf.data.Dataset.from_tensors(whole).repeat(settings.final_steps),
        shuffle=False,
        verbose=0,
    )
    _, accuracy = model.evaluate(*data.test, batch_size=10000, verbose=0)
    return 100 * accuracy


def _linear_softmax() -> keras.Model:
    layers = [keras.layers.Flatten(), keras.layers.Dense(_CLASSES)]
    return keras.Sequential([keras.Input([28, 28, 1]), *layers])


def _loss() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _scaled(images: np.ndarray) -> np.ndarray:
    return images.astype("float32") / 255
