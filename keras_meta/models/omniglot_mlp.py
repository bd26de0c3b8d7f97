"""The fully connected network of Omniglot."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_meta.checks import check_number_at_least
from keras_meta.checks import check_positive
from keras_meta.models.blocks import as_sizes


def omniglot_mlp(
    ways: int,
    hidden: Sequence[int] = (256, 128, 64, 64),
    *,
    image_size: int = 28,
    stddev: float = 0.01,
) -> keras.Sequential:
    """Builds the fully connected network of Omniglot.

    Dense layers with batch normalization and ReLU, and a dense layer on top.
    Unlike in the published code, batch normalization has a scale as well as
    an offset, and both adapt; see `omniglot_conv`.

    Args:
        ways: Number of classes in a task.
        hidden: Sizes of the hidden layers.
        image_size: Height and width of the images.
        stddev: Standard deviation of the truncated normal distribution that
            kernels are drawn from.

    Returns:
        A built model from `[n, image_size, image_size, 1]` to logits
        `[n, ways]`.

    Raises:
        ValueError: If an argument has the wrong type or is out of range.

    Example:
    >>> omniglot_mlp(ways=20).output_shape
    (None, 20)

    References:
        - [Finn et al., 2017](https://arxiv.org/abs/1703.03400), section 5.2.
    """
    check_positive(ways=ways, image_size=image_size)
    check_number_at_least(0, stddev=stddev)
    return keras.Sequential(
        [
            keras.Input([image_size, image_size, 1]),
            keras.layers.Flatten(),
            *(
                layer
                for size in as_sizes(hidden)
                for layer in _block(size, stddev)
            ),
            _dense(ways, stddev),
        ],
        name="omniglot_mlp",
    )


def _block(size: int, stddev: float) -> list[keras.Layer]:
    return [
        _dense(size, stddev),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
    ]


def _dense(size: int, stddev: float) -> keras.layers.Dense:
    return keras.layers.Dense(
        size,
        kernel_initializer=keras.initializers.TruncatedNormal(stddev=stddev),
    )
