"""A dilated causal convolution with gates."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_positive
from keras_meta.sequence.causal_layer import CausalLayer


@keras.saving.register_keras_serializable("keras_meta")
class GatedConvolution(CausalLayer):
    """Appends to each item a gated function of it and of one earlier item.

    The output for item `x_t` is `x_t` and, with `z = U x_{t-dilation} + W x_t
    + b` cut into halves `f` and `g`, the product `tanh(f) sigmoid(g)`. Before
    the first item there are zeros. It is the dense block of SNAIL.

    Args:
        filters: Number of channels that are appended.
        dilation: How far back the earlier item lies.
        **kwargs: See `keras.layers.Layer`.

    Raises:
        ValueError: If a size is not positive.

    Example:
    >>> import tensorflow as tf
    >>> GatedConvolution(filters=8, dilation=2)(tf.ones([1, 5, 3])).shape
    TensorShape([1, 5, 11])

    References:
        - [Mishra et al., 2018](https://arxiv.org/abs/1707.03141), section 3.
    """

    def __init__(self, filters: int, dilation: int = 1, **kwargs: Any):
        super().__init__(**kwargs)
        check_positive(filters=filters, dilation=dilation)
        self.filters = int(filters)
        self.dilation = int(dilation)

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Creates the kernel for items `[sequences, n, c]`."""
        size = 2 * self.filters
        self.kernel = self.add_weight(
            name="kernel", shape=(2, input_shape[-1], size)
        )
        self.bias = self.add_weight(
            name="bias", shape=(size,), initializer="zeros"
        )

    def read(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns outputs and the item that one to come will see.

        See `CausalLayer.read`; the item is `[sequences, 1, c]`.
        """
        padded = tf.pad(x, [[0, 0], [self.dilation, 0], [0, 0]])
        earlier = padded[:, : -self.dilation]
        next_one = padded[:, -self.dilation :][:, :1]
        return self._appended(x, earlier), next_one

    def follow(self, x: tf.Tensor, memory: tf.Tensor) -> tf.Tensor:
        """Returns outputs for items that come next; see `CausalLayer`."""
        return self._appended(x, memory)

    def _appended(self, x: tf.Tensor, earlier: tf.Tensor) -> tf.Tensor:
        kernel = tf.cast(self.kernel, x.dtype)
        # Unlike `matmul`, this takes the items of all sequences at once.
        z = tf.tensordot(earlier, kernel[0], 1) + tf.tensordot(x, kernel[1], 1)
        f, g = tf.split(z + tf.cast(self.bias, x.dtype), 2, axis=-1)
        return tf.concat([x, tf.tanh(f) * tf.sigmoid(g)], axis=-1)

    def compute_output_shape(
        self, input_shape: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Returns the shape of the outputs."""
        return (*input_shape[:-1], input_shape[-1] + self.filters)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "dilation": self.dilation,
        }
