"""Families of optimization problems, by name."""

from __future__ import annotations

import os
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow_datasets as tfds

from keras_meta import problems

_LAYERS = keras.layers
_BATCH_SIZE = 128
_FEW_CIFAR_CLASSES = {"cifar5": 5, "cifar2": 2}

# Names of all families, as used in flags; see `make`.
NAMES = (
    "quadratic",
    "mnist",
    "mnist_40_units",
    "mnist_two_layers",
    "mnist_relu",
    "mnist_noisy",
    "fashion_mnist",
    "fashion_mnist_relu",
    "fashion_mnist_convolutional",
    "cifar10",
    "cifar5",
    "cifar2",
)
# The name of `mixture`.
MIXTURE = "mixture"


def make(name: str, data_dir: str | None = None) -> problems.Problem:
    """Returns a family of problems.

    Args:
        name: `"quadratic"`: the paper's family in 10 dimensions.
            `"mnist"`: an MLP with 20 sigmoid units. Its variants are
            `_40_units`, `_two_layers` of 20 units, and `_relu` instead of the
            sigmoid.
            `"mnist_noisy"`: an MLP with 20 ReLU units on images of 7 x 7
            pixels, in minibatches of 4 of the first 6000.
            `"fashion_mnist"`: the same on Fashion-MNIST.
            `"fashion_mnist_relu"`: two layers of 64 ReLU units.
            `"fashion_mnist_convolutional"`: two convolutions and a mean.
            `"cifar10"`, `"cifar5"`, `"cifar2"`: a convolutional network on
            that many classes.
            Losses are computed on minibatches of 128 training images, if
            nothing else is said.
        data_dir: Folder of the prepared data sets.
    """
    if name == "quadratic":
        return problems.Quadratic()
    if name == "mnist_noisy":
        images = _images("mnist", 10, data_dir, split="train[:6000]")
        layers = _dense([20], "relu")
        return _classification(_shrunk(images, 4), layers, 10, batch_size=4)
    if name == "fashion_mnist_convolutional":
        images = _images("fashion_mnist", 10, data_dir)
        return _classification(images, _strided_convolutions(), 10)
    if name.startswith("cifar"):
        classes = _FEW_CIFAR_CLASSES.get(name, 10)
        images = _images("cifar10", classes, data_dir)
        return _classification(images, _convolutions(), classes)
    units, activation = {
        "mnist_40_units": ([40], "sigmoid"),
        "mnist_two_layers": ([20, 20], "sigmoid"),
        "mnist_relu": ([20], "relu"),
        "fashion_mnist_relu": ([64, 64], "relu"),
    }.get(name, ([20], "sigmoid"))
    dataset = "fashion_mnist" if name.startswith("fashion") else "mnist"
    images = _images(dataset, 10, data_dir)
    return _classification(images, _dense(units, activation), 10)


def mixture(data_dir: str | None = None) -> list[problems.Problem]:
    """Returns small problems of many kinds to train on together.

    They are a linear classifier and networks with one or two layers of
    sigmoid, tanh or ReLU units, on MNIST, CIFAR-10 and EuroSAT. Images are
    shrunk, because many steps on small networks teach more than few steps on
    large ones. One problem has small, noisy batches. Two have so few images
    that they can be memorized. The parameters of each network have their own
    scale, so that each needs a different rate. All problems have noise:
    without it, steadily falling rates would be best, which does not hold
    elsewhere.

    Args:
        data_dir: Folder of the prepared data sets.
    """
    full = _images("mnist", 10, data_dir)
    middle, small = _shrunk(full, 2), _shrunk(full, 4)
    objects = _shrunk(_images("cifar10", 10, data_dir), 4)
    land = _shrunk(_images("eurosat", 10, data_dir), 8)

    def network(data, units, activation, batch_size=_BATCH_SIZE):
        layers = _dense(units, activation)
        made = _classification(data, layers, 10, batch_size)
        return problems.RandomScaling(made, -1.0, 1.0, per="instance")

    def uneven(family, per):
        return problems.RandomScaling(family, -1.0, 1.0, per=per)

    return [
        network(full, [], None),
        network(middle, [20], "relu"),
        uneven(network(small, [20], "sigmoid"), "coordinate"),
        network(middle, [32, 32], "relu", batch_size=32),
        uneven(network(middle, [20, 20], "tanh"), "tensor"),
        network(objects, [32], "relu"),
        network(_first(land, 3000), [20, 20], "relu"),
        network(_first(middle, 3000), [64, 32], "relu"),
    ]


def _first(data, examples: int) -> tuple[np.ndarray, np.ndarray]:
    images, labels = data
    return images[:examples], labels[:examples]


def _shrunk(data, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images downscaled by averaging tiles, and the labels."""
    images, labels = data
    pixels = images.shape[1] // side
    channels = images.shape[3]
    tiles = images.reshape([-1, pixels, side, pixels, side, channels])
    return tiles.mean(axis=(2, 4)).astype("float32"), labels


def _dense(
    units: Sequence[int], activation: str | None
) -> list[keras.layers.Layer]:
    layers = [_LAYERS.Dense(n, activation) for n in units]
    return [_LAYERS.Flatten(), *layers]


def _convolutions() -> list[keras.layers.Layer]:
    layers = []
    for filters in (8, 16, 16):
        layers += [
            _LAYERS.Conv2D(filters, 3, padding="same", use_bias=False),
            _LAYERS.BatchNormalization(),
            _LAYERS.ReLU(),
            _LAYERS.MaxPooling2D(2),
        ]
    return [*layers, _LAYERS.Flatten(), _LAYERS.Dense(32, "relu")]


def _strided_convolutions() -> list[keras.layers.Layer]:
    convolutions = [
        _LAYERS.Conv2D(n, 3, strides=2, activation="relu") for n in (16, 32)
    ]
    return [*convolutions, _LAYERS.GlobalAveragePooling2D()]


def _images(
    name: str, classes: int, data_dir: str | None, split: str = "train"
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the images of the first classes, and their labels."""
    data_dir = data_dir or os.environ.get("TFDS_DATA_DIR")
    x, y = tfds.as_numpy(
        tfds.load(
            name,
            split=split,
            as_supervised=True,
            data_dir=data_dir,
            batch_size=-1,
        )
    )
    return x[y < classes], y[y < classes]


def _classification(
    data: tuple[np.ndarray, np.ndarray],
    hidden: list[keras.layers.Layer],
    classes: int,
    batch_size: int = _BATCH_SIZE,
) -> problems.Problem:
    model = keras.Sequential(
        [
            keras.Input(data[0].shape[1:]),
            _LAYERS.Rescaling(1 / 255),
            *hidden,
            _LAYERS.Dense(classes),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return problems.ModelProblem(model, data, loss, batch_size=batch_size)
