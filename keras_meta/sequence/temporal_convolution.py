"""Causal convolutions that reach over a whole sequence."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_at_least
from keras_meta.checks import check_positive
from keras_meta.sequence.causal_layer import CausalLayer
from keras_meta.sequence.causal_layer import build_all
from keras_meta.sequence.causal_layer import follow_through
from keras_meta.sequence.causal_layer import read_through
from keras_meta.sequence.gated_convolution import GatedConvolution


@keras.saving.register_keras_serializable("keras_meta")
class TemporalConvolution(CausalLayer):
    """Stacks gated convolutions until an item sees `length` items.

    The dilations are 1, 2, 4, ..., `2^(k-1)` with the least `2^k >= length`,
    so that an output depends on the last `2^k` items, each of them by exactly
    one path of dilations. Each convolution appends `filters` channels. The
    pseudocode of the paper begins with dilation 2, which leaves out every
    other item.

    Args:
        filters: Channels that each convolution appends.
        length: Number of items that the last output must depend on.
        **kwargs: See `keras.layers.Layer`.

    Raises:
        ValueError: If `filters` is not positive or `length` is below 2.

    Example:
    >>> import tensorflow as tf
    >>> layer = TemporalConvolution(filters=8, length=6)
    >>> layer(tf.ones([1, 6, 3])).shape, layer.reach
    (TensorShape([1, 6, 27]), 8)

    References:
        - [Mishra et al., 2018](https://arxiv.org/abs/1707.03141), section 3.
    """

    def __init__(self, filters: int, length: int, **kwargs: Any):
        super().__init__(**kwargs)
        check_positive(filters=filters)
        check_at_least(2, length=length)
        self.filters = int(filters)
        self.length = int(length)
        depth = (self.length - 1).bit_length()
        self.convolutions = [
            GatedConvolution(self.filters, 2**i, dtype=self.dtype_policy)
            for i in range(depth)
        ]

    @property
    def reach(self) -> int:
        """How many items an output depends on, its own included."""
        return 2 ** len(self.convolutions)

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Creates the weights for items `[sequences, n, c]`."""
        build_all(self.convolutions, input_shape[-1])

    def read(self, x: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns outputs and earlier items; see `CausalLayer.read`."""
        return read_through(self.convolutions, x)

    def follow(self, x: tf.Tensor, memory: list[tf.Tensor]) -> tf.Tensor:
        """Returns outputs for items that come next; see `CausalLayer`."""
        return follow_through(self.convolutions, x, memory)

    def compute_output_shape(
        self, input_shape: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Returns the shape of the outputs."""
        added = self.filters * len(self.convolutions)
        return (*input_shape[:-1], input_shape[-1] + added)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "length": self.length,
        }
