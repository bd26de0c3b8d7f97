"""Rule of max pooling.

The second derivative of TensorFlow's max pooling is wrong under XLA, which
rounds the input to bfloat16 to find the maximum again. A chain of selections
has the right derivatives of any order everywhere, and the same ones as the
operation where values tie: the first maximum takes the gradient. For one task
alone, outside XLA, the operation is right and faster.
"""

from __future__ import annotations

import functools

import keras
import tensorflow as tf

from keras_meta.unroll.rules.convolution import patches
from keras_meta.unroll.rules.registry import rule
from keras_meta.unroll.task_scope import TaskScope


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
    y = functools.reduce(lambda a, b: tf.where(a >= b, a, b), parts)
    return y if last else tf.transpose(y, [0, rank - 1, *range(1, rank - 1)])
