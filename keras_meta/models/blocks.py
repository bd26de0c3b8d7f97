"""Helpers that the networks of few-shot experiments share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_meta.checks import check_positive
from keras_meta.checks import describe
from keras_meta.episodes.arguments import as_integers


def convolution_block(filters: int, pool: bool) -> list[keras.Layer]:
    """Returns the layers of one block, which halves height and width.

    Args:
        filters: Output channels.
        pool: Whether to halve the image with 2x2 maximum pooling, which drops
            an odd last row and column, instead of with strides.

    Returns:
        A 3x3 convolution with bias, batch normalization, ReLU and, with
        `pool`, maximum pooling.
    """
    layers = [
        keras.layers.Conv2D(
            filters, 3, strides=1 if pool else 2, padding="same"
        ),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
    ]
    return [*layers, keras.layers.MaxPooling2D(2)] if pool else layers


def as_sizes(hidden: Sequence[int]) -> list[int]:
    """Returns the sizes of hidden layers as integers, and checks them."""
    sizes = as_integers("hidden", hidden)
    check_positive(**{f"hidden[{i}]": size for i, size in enumerate(sizes)})
    return sizes


def as_initializer(name: str, value: Any) -> keras.initializers.Initializer:
    """Returns a Keras initializer, and refuses anything else."""
    try:
        initializer = keras.initializers.get(value)
    except (TypeError, ValueError):
        initializer = None
    if not isinstance(initializer, keras.initializers.Initializer):
        raise ValueError(
            f"`{name}` must be a Keras initializer or its name. Received: "
            f"{name}={describe(value)}"
        )
    return initializer
