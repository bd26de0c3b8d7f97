"""The block that convolutional few-shot networks repeat."""

from __future__ import annotations

import keras


def convolution_block(filters: int, pool: bool) -> list[keras.Layer]:
    """Returns the layers of one block, which halves height and width.

    Args:
        filters: Output channels.
        pool: Whether 2x2 maximum pooling halves the image, dropping an odd
            last row and column, or the stride of the convolution.

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
