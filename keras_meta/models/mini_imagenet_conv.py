"""The convolutional network of mini-ImageNet."""

from __future__ import annotations

import keras

from keras_meta.checks import check_at_least
from keras_meta.checks import check_positive
from keras_meta.models.blocks import convolution_block


def mini_imagenet_conv(
    ways: int, filters: int = 32, image_size: int = 84
) -> keras.Sequential:
    """Builds the convolutional network of mini-ImageNet.

    Four blocks of convolution, batch normalization, ReLU and 2x2 maximum
    pooling, then a dense layer on all features. Unlike in the published code,
    batch normalization has a scale as well as an offset, and both adapt; see
    `omniglot_conv`.

    Args:
        ways: Number of classes in a task.
        filters: Output channels of every convolution.
        image_size: Height and width of the images, at least 16.

    Returns:
        A built model from `[n, image_size, image_size, 3]` to logits
        `[n, ways]`.

    Raises:
        ValueError: If an argument has the wrong type or is out of range.

    Example:
    >>> mini_imagenet_conv(ways=5).count_params()
    33157

    References:
        - [Ravi and Larochelle,
          2017](https://openreview.net/forum?id=rJY0-Kcll), section 5.1.
        - [Finn et al., 2017](https://arxiv.org/abs/1703.03400), section 5.2.
    """
    check_positive(ways=ways, filters=filters, image_size=image_size)
    check_at_least(16, image_size=image_size)
    blocks = [convolution_block(filters, pool=True) for _ in range(4)]
    return keras.Sequential(
        [
            keras.Input([image_size, image_size, 3]),
            *(layer for block in blocks for layer in block),
            keras.layers.Flatten(),
            keras.layers.Dense(ways),
        ],
        name="mini_imagenet_conv",
    )
