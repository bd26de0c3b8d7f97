"""The convolutional network of Omniglot."""

from __future__ import annotations

import keras

from keras_meta.checks import check_at_least
from keras_meta.checks import check_bool
from keras_meta.checks import check_positive
from keras_meta.models.blocks import as_initializer
from keras_meta.models.blocks import convolution_block


def omniglot_conv(
    ways: int,
    filters: int = 64,
    pool: bool = False,
    *,
    image_size: int = 28,
    head_initializer: str | keras.initializers.Initializer = "glorot_uniform",
) -> keras.Sequential:
    """Builds the convolutional network of Omniglot.

    Four blocks of convolution, batch normalization and ReLU, then the mean
    over height and width and a dense layer. Unlike in the published code,
    batch normalization has a scale as well as an offset, and both adapt. To
    exclude them from the inner loop, pass an `adapt` predicate to the learner.

    Args:
        ways: Number of classes in a task.
        filters: Output channels of every convolution.
        pool: Whether to halve the image with maximum pooling in each block,
            instead of with strides.
        image_size: Height and width of the images, at least 16 with `pool`.
        head_initializer: Initializer of the dense layer's kernel. The
            published code draws from the standard normal distribution,
            `keras.initializers.RandomNormal(stddev=1.0)`.

    Returns:
        A built model from `[n, image_size, image_size, 1]` to logits
        `[n, ways]`.

    Raises:
        ValueError: If an argument has the wrong type or is out of range.

    Example:
    >>> omniglot_conv(ways=5).output_shape
    (None, 5)

    References:
        - [Finn et al., 2017](https://arxiv.org/abs/1703.03400), section 5.2.
        - [Vinyals et al., 2016](https://arxiv.org/abs/1606.04080), for
          `pool`.
    """
    check_positive(ways=ways, filters=filters)
    check_bool(pool=pool)
    # Each of the four pooling blocks halves the image, rounding down.
    check_at_least(16 if pool else 1, image_size=image_size)
    check_positive(image_size=image_size)
    head_initializer = as_initializer("head_initializer", head_initializer)
    blocks = [convolution_block(filters, pool) for _ in range(4)]
    return keras.Sequential(
        [
            keras.Input([image_size, image_size, 1]),
            *(layer for block in blocks for layer in block),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(ways, kernel_initializer=head_initializer),
        ],
        name="omniglot_conv",
    )
