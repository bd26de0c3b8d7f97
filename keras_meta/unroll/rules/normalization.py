"""Rules of the normalization layers.

`tf.nn.moments`, which Keras's layers use, hides the mean inside the variance
from differentiation. That leaves the first derivative right and makes the
second one wrong: the Hessian of the variance comes out as 2/N I instead of
2/N (I - 11'/N). A meta-gradient through such a layer is wrong with it, so
these rules are used even where no weight adapts.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_meta.unroll import task_axis
from keras_meta.unroll.rules.core import broadcast_weight
from keras_meta.unroll.rules.registry import rule
from keras_meta.unroll.task_scope import TaskScope


def moments(x: tf.Tensor, axes: list[int]) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns mean and biased variance, right to any order of derivative.

    Args:
        x: Any shape.
        axes: Axes to reduce; they are kept with size 1.
    """
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(
        tf.math.squared_difference(x, mean), axes, keepdims=True
    )
    return mean, variance


def masked_moments(
    x: tf.Tensor, axes: list[int], mask: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """`moments` over the entries where `mask`, broadcast to `x`, is 1."""
    total = tf.reduce_sum(mask, axes, keepdims=True) + keras.config.epsilon()
    mean = tf.reduce_sum(mask * x, axes, keepdims=True) / total
    difference = mask * tf.math.squared_difference(x, mean)
    return mean, tf.reduce_sum(difference, axes, keepdims=True) / total


@rule(
    keras.layers.BatchNormalization,
    always=True,
    supports=lambda layer: not layer.renorm and not layer.synchronized,
)
def batch_normalization(
    layer, scope: TaskScope, inputs, training=None, mask=None
):
    """Each task is normalized with its own statistics."""
    dtype = keras.backend.result_type(inputs.dtype, "float32")
    x = task_axis.split(tf.cast(inputs, dtype), scope.tasks)
    channel = layer.axis % inputs.shape.rank + 1
    mean, variance = _statistics(layer, scope, x, channel, training, mask)
    scale = tf.math.rsqrt(variance + layer.epsilon)
    if layer.scale:
        gamma = tf.cast(scope.weight(layer.gamma), dtype)
        scale *= _along(gamma, channel, x.shape.rank)
    y = (x - mean) * scale
    if layer.center:
        beta = tf.cast(scope.weight(layer.beta), dtype)
        y += _along(beta, channel, x.shape.rank)
    return tf.cast(task_axis.merge(y), layer.compute_dtype)


def _statistics(layer, scope, x, channel, training, mask):
    """Returns mean and variance, `[tasks, 1, .., channels, .., 1]`."""
    rank = x.shape.rank
    if not layer.trainable or (scope.statistics == "running" and not training):
        return [
            _along(tf.cast(moving, x.dtype)[tf.newaxis], channel, rank)
            for moving in (layer.moving_mean, layer.moving_variance)
        ]
    if isinstance(scope.statistics, dict):
        pair = scope.next_statistics(layer)
        return [_along(value, channel, rank) for value in pair]
    axes = [axis for axis in range(1, rank) if axis != channel]
    if mask is None:
        mean, variance = moments(x, axes)
    else:
        weights = task_axis.split(tf.cast(mask, x.dtype), scope.tasks)
        weights = tf.broadcast_to(tf.expand_dims(weights, channel), tf.shape(x))
        mean, variance = masked_moments(x, axes, weights)
    shape = [scope.tasks, x.shape[channel]]
    flat = [tf.reshape(value, shape) for value in (mean, variance)]
    scope.record_statistics(layer, *flat)
    if scope.statistics == "running":
        _update_moving(layer.moving_mean, flat[0], layer.momentum)
        _update_moving(layer.moving_variance, flat[1], layer.momentum)
    return mean, variance


def _update_moving(moving, batch: tf.Tensor, momentum: float):
    new = tf.stop_gradient(tf.reduce_mean(batch, axis=0))
    old = tf.cast(moving, new.dtype)
    moving.assign(tf.cast(old * momentum + new * (1 - momentum), moving.dtype))


def _along(value: tf.Tensor, channel: int, rank: int) -> tf.Tensor:
    """Reshapes `[tasks, channels]` to lie along axis `channel` of `rank`."""
    shape = [1] * rank
    shape[0] = task_axis.size(value, 0)
    shape[channel] = value.shape[1]
    return tf.reshape(value, shape)


@rule(
    keras.layers.LayerNormalization,
    always=True,
    supports=lambda layer: not layer.rms_scaling,
)
def layer_normalization(layer, scope: TaskScope, inputs):
    """Normalizes each example, then scales it with its task's weights."""
    dtype = keras.backend.result_type(inputs.dtype, "float32")
    x = tf.cast(inputs, dtype)
    axes = [axis % x.shape.rank for axis in layer.axis]
    mean, variance = moments(x, axes)
    y = (x - mean) * tf.math.rsqrt(variance + layer.epsilon)
    shape = [
        size if i in axes else 1 for i, size in enumerate(x.shape.as_list())
    ]
    y = _affine(scope, y, layer.gamma, layer.beta, shape[1:])
    return tf.cast(y, layer.compute_dtype)


@rule(keras.layers.GroupNormalization, always=True)
def group_normalization(layer, scope: TaskScope, inputs):
    """Normalizes groups of channels, then scales with the task's weights."""
    dtype = keras.backend.result_type(inputs.dtype, "float32")
    x = tf.cast(inputs, dtype)
    axis = layer.axis % x.shape.rank
    channels = x.shape[axis]
    sizes = [task_axis.size(x, i) for i in range(x.shape.rank)]
    grouped = tf.reshape(
        x,
        [
            *sizes[:axis],
            layer.groups,
            channels // layer.groups,
            *sizes[axis + 1 :],
        ],
    )
    axes = [i for i in range(1, grouped.shape.rank) if i != axis]
    mean, variance = moments(grouped, axes)
    y = (grouped - mean) * tf.math.rsqrt(variance + layer.epsilon)
    y = tf.ensure_shape(tf.reshape(y, sizes), x.shape)
    shape = [1] * x.shape.rank
    shape[axis] = channels
    gamma = layer.gamma if layer.scale else None
    beta = layer.beta if layer.center else None
    y = _affine(scope, y, gamma, beta, shape[1:])
    return tf.cast(y, layer.compute_dtype)


@rule(keras.layers.RMSNormalization)
def rms_normalization(layer, scope: TaskScope, inputs):
    """Divides by the root mean square, then scales with the task's weights."""
    ones = tf.ones(layer.scale.shape, layer.compute_dtype)
    y = keras.ops.rms_normalization(
        inputs, scale=ones, axis=layer.axis, epsilon=layer.epsilon
    )
    axes = [axis % y.shape.rank for axis in layer.axis]
    shape = [
        size if i in axes else 1 for i, size in enumerate(y.shape.as_list())
    ]
    return _affine(scope, y, layer.scale, None, shape[1:])


def _affine(scope: TaskScope, y, gamma, beta, shape) -> tf.Tensor:
    """`y * gamma + beta`, the weights reshaped to `shape` for each example."""
    y = task_axis.split(y, scope.tasks)
    for weight, combine in ((gamma, tf.multiply), (beta, tf.add)):
        if weight is not None:
            value = tf.cast(scope.weight(weight), y.dtype)
            value = tf.reshape(value, [task_axis.size(value, 0), *shape])
            y = combine(y, broadcast_weight(value, y.shape.rank))
    return task_axis.merge(y)
