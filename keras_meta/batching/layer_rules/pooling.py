"""Rules of max pooling.

The second derivative of TensorFlow's max pooling is wrong under XLA, which
rounds the input to bfloat16 to find the maximum again. A chain of selections
has the right derivatives of any order everywhere, and the same ones as the
operation where values tie: the first maximum takes the gradient. For one task
alone, outside XLA, the operation is right and faster.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_meta.batching.layer_rules.convolution import patches
from keras_meta.batching.layer_rules.registry import rule
from keras_meta.batching.task_scope import TaskScope


@rule(
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.MaxPooling3D,
    always=True,
)
def max_pooling(layer, scope: TaskScope, inputs):
    """The largest value under each window."""
    last = layer.data_format == "channels_last"
    rank = inputs.shape.rank
    # Other kinds lack kernels on the CPU.
    if scope.single and not scope.xla and last and rank == 4:
        return tf.nn.max_pool2d(
            inputs, layer.pool_size, layer.strides, layer.padding.upper()
        )
    x = inputs if last else tf.transpose(inputs, [0, *range(2, rank), 1])
    parts = patches(
        x,
        layer.pool_size,
        layer.strides,
        [1] * (rank - 2),
        layer.padding,
        fill=x.dtype.min,
    )
    y = _largest(parts)
    return y if last else tf.transpose(y, [0, rank - 1, *range(1, rank - 1)])


@rule(
    keras.layers.AdaptiveMaxPooling1D,
    keras.layers.AdaptiveMaxPooling2D,
    keras.layers.AdaptiveMaxPooling3D,
    always=True,
)
def adaptive_max_pooling(layer, scope: TaskScope, inputs):
    """The largest value under each of a fixed number of windows."""
    first = 1 if layer.data_format == "channels_last" else 2
    y = inputs
    for axis, size in enumerate(layer.output_size, first):
        y = _largest_in_windows(y, axis, size)
    return y


def _largest_in_windows(x: tf.Tensor, axis: int, count: int) -> tf.Tensor:
    """Reduces an axis to the largest values of `count` equal windows.

    Windows whose borders fall between positions overlap, as Keras's do.
    """
    size = x.shape[axis]
    if size is None:
        raise ValueError(
            "Adaptive pooling needs inputs of static size. Received: "
            f"shape={x.shape}. Give the model a keras.Input of fixed size."
        )
    starts = [i * size // count for i in range(count)]
    lasts = [-(-(i + 1) * size // count) - 1 for i in range(count)]
    span = max(b - a + 1 for a, b in zip(starts, lasts, strict=True))
    # In a window shorter than the longest, the last position comes again.
    positions = (
        [min(a + k, b) for a, b in zip(starts, lasts, strict=True)]
        for k in range(span)
    )
    return _largest([tf.gather(x, p, axis=axis) for p in positions])


def _largest(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    """The largest of each entry; the first of equals takes the gradient."""
    return functools.reduce(lambda a, b: tf.where(a >= b, a, b), parts)
