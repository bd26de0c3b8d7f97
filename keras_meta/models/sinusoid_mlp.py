"""The network of sinusoid regression."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_meta.models.blocks import as_initializer
from keras_meta.models.blocks import as_sizes


def sinusoid_mlp(
    hidden: Sequence[int] = (40, 40),
    *,
    initializer: str | keras.initializers.Initializer = "glorot_uniform",
) -> keras.Sequential:
    """Builds the network of sinusoid regression, 1-40-40-1 with ReLU.

    Args:
        hidden: Sizes of the hidden layers.
        initializer: Initializer of the kernels; biases start at zero. The
            published code draws from a normal distribution with standard
            deviation 0.01, truncated at two standard deviations:
            `keras.initializers.TruncatedNormal(stddev=0.01)`.

    Returns:
        A built model from `[n, 1]` to `[n, 1]`.

    Raises:
        ValueError: If an argument has the wrong type or is out of range.

    Example:
    >>> sinusoid_mlp().count_params()
    1761

    References:
        - [Finn et al., 2017](https://arxiv.org/abs/1703.03400), section 5.1.
    """
    initializer = as_initializer("initializer", initializer)
    return keras.Sequential(
        [
            keras.Input([1]),
            *(
                keras.layers.Dense(
                    size,
                    activation="relu",
                    kernel_initializer=initializer.clone(),
                )
                for size in as_sizes(hidden)
            ),
            keras.layers.Dense(1, kernel_initializer=initializer.clone()),
        ],
        name="sinusoid_mlp",
    )
