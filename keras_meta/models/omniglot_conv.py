"""The convolutional network of Omniglot."""

from __future__ import annotations

import keras

from keras_meta.checks import check_bool
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

    Four blocks of convolution, batch normalization and ReLU, the mean over
    height and width, and a dense layer. Unlike the published code's, batch
    normalization has a scale besides its offset, and both adapt; pass an
    `adapt` predicate to the learner to leave them out of the inner loop.

    Args:
        ways: Number of classes of a task.
        filters: Output channels of every convolution.
        pool: Whether blocks halve the image by maximum pooling instead of by
            the convolution's stride.
        image_size: Height and width of the images, at least 16 with `pool`.
        head_initializer: Initializer of the dense layer's kernel. The
            published code draws from the standard normal distribution,
            `keras.initializers.RandomNormal(stddev=1.0)`.

    Returns:
        A built model from `[n, image_size, image_size, 1]` to logits
        `[n, ways]`.

    Example:
    >>> omniglot_conv(ways=5).output_shape
    (None, 5)

    References:
        - [Finn et al., 2017](https://arxiv.org/abs/1703.03400), section 5.2.
        - [Vinyals et al., 2016](https://arxiv.org/abs/1606.04080), for
          `pool`.
    """
    check_bool(pool=pool)
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
