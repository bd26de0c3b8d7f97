"""Families of optimization problems, by name."""

from __future__ import annotations

import os

import keras
import tensorflow_datasets as tfds

from keras_meta import problems

_LAYERS = keras.layers
_BATCH_SIZE = 128
_FEW_CIFAR_CLASSES = {"cifar5": 5, "cifar2": 2}

# Every family by the name of a flag; see `make`.
NAMES = (
    "quadratic",
    "mnist",
    "mnist_40_units",
    "mnist_two_layers",
    "mnist_relu",
    "fashion_mnist",
    "cifar10",
    "cifar5",
    "cifar2",
)


def make(name: str, data_dir: str | None = None) -> problems.Problem:
    """Returns a family of problems.

    Args:
        name: `"quadratic"`, the paper's family in 10 dimensions.
            `"mnist"`, an MLP of 20 sigmoid units; with `_40_units`,
            `_two_layers` of 20, or `_relu` in place of the sigmoid.
            `"fashion_mnist"`, the same on other images. `"cifar10"`,
            `"cifar5"`, `"cifar2"`: a convolutional network on that many
            classes. Losses are those on minibatches of 128 training images.
        data_dir: Folder of the prepared data sets.
    """
    if name == "quadratic":
        return problems.Quadratic()
    if name.startswith("cifar"):
        return _cifar(_FEW_CIFAR_CLASSES.get(name, 10), data_dir)
    units, activation = {
        "mnist_40_units": ([40], "sigmoid"),
        "mnist_two_layers": ([20, 20], "sigmoid"),
        "mnist_relu": ([20], "relu"),
    }.get(name, ([20], "sigmoid"))
    images = "fashion_mnist" if name == "fashion_mnist" else "mnist"
    layers = [_LAYERS.Dense(n, activation) for n in units]
    return _classification(images, layers, 10, data_dir)


def _cifar(classes: int, data_dir: str | None) -> problems.Problem:
    layers = []
    for _ in range(3):
        layers += [
            _LAYERS.Conv2D(16, 3, padding="same", use_bias=False),
            _LAYERS.BatchNormalization(),
            _LAYERS.ReLU(),
            _LAYERS.MaxPooling2D(2),
        ]
    layers += [_LAYERS.Flatten(), _LAYERS.Dense(32, "relu")]
    return _classification("cifar10", layers, classes, data_dir)


def _classification(
    name: str, hidden: list, classes: int, data_dir: str | None
) -> problems.Problem:
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
    images = tfds.load(
        name, split="train", as_supervised=True, data_dir=data_dir
    ).filter(lambda _, label: label < classes)
    shape = images.element_spec[0].shape
    model = keras.Sequential(
        [
            keras.Input(shape),
            _LAYERS.Rescaling(1 / 255),
            *([] if len(hidden) > 2 else [_LAYERS.Flatten()]),
            *hidden,
            _LAYERS.Dense(classes),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return problems.ModelProblem(model, images, loss, batch_size=_BATCH_SIZE)
