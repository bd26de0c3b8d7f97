"""Rules of the normalization layers.

Keras's own layers have a wrong second derivative, see `standardize`, and with
it the meta-gradient through them is wrong. So these rules are used even where
no weight adapts.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.batching.layer_rules.core import broadcast_weight
from keras_meta.batching.layer_rules.registry import rule
from keras_meta.batching.task_scope import TaskScope
from keras_meta.kernels.fused_standardize import fused_standardize
from keras_meta.kernels.standardize import moments
from keras_meta.kernels.standardize import standardize


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
    order, inverse = _channel_last(layer.axis, inputs.shape.rank)
    x = tf.transpose(tf.cast(inputs, dtype), order)
    rows = tf.reshape(x, [scope.tasks, -1, x.shape[-1]])
    if mask is not None:
        mask = _like_rows(mask, inputs, order, rows)
    gamma = beta = None
    if layer.scale:
        gamma = tf.cast(scope.weight(layer.gamma), dtype)
    if layer.center:
        beta = tf.cast(scope.weight(layer.beta), dtype)
    given = _given_statistics(layer, scope, dtype, training)
    if given is None and mask is None and _has_fused_kernel(scope, rows):
        _record(layer, scope, *moments(rows, [1]))
        y = _fused(rows, gamma, beta, layer.epsilon)
    else:
        y = _standardized(layer, scope, rows, given, mask)
        y = y if gamma is None else y * gamma[:, tf.newaxis]
        y = y if beta is None else y + beta[:, tf.newaxis]
    sizes = [task_axis.size(x, axis) for axis in range(x.shape.rank)]
    y = tf.transpose(tf.reshape(y, sizes), inverse)
    return tf.cast(tf.ensure_shape(y, inputs.shape), layer.compute_dtype)


def _channel_last(axis: int, rank: int) -> tuple[list[int], list[int]]:
    """Returns the permutation that moves `axis` last, and its inverse."""
    order = [i for i in range(rank) if i != axis % rank] + [axis % rank]
    return order, [order.index(i) for i in range(rank)]


def _given_statistics(layer, scope: TaskScope, dtype, training):
    """Returns mean and variance, `[tasks or 1, channels]`, if not the batch's.

    They are moving averages or what an earlier call recorded.
    """
    if not layer.trainable or (scope.statistics == "running" and not training):
        moving = layer.moving_mean, layer.moving_variance
        return [tf.cast(x, dtype)[tf.newaxis] for x in moving]
    if isinstance(scope.statistics, dict):
        return scope.next_statistics(layer)
    return None


def _standardized(layer, scope: TaskScope, rows, given, mask) -> tf.Tensor:
    if given is not None:
        mean, variance = [x[:, tf.newaxis] for x in given]
        return _shift_and_scale(rows, mean, variance, layer.epsilon)
    if mask is None:
        mean, variance = moments(rows, [1])
        y = _standardize(scope, rows, [1], layer.epsilon)
    else:
        mean, variance = _masked_moments(rows, mask)
        y = _shift_and_scale(rows, mean, variance, layer.epsilon)
    _record(layer, scope, mean, variance)
    return y


def _record(layer, scope: TaskScope, mean, variance) -> None:
    """Keeps the batch's statistics, `[tasks, 1, channels]`."""
    scope.record_statistics(layer, mean[:, 0], variance[:, 0])
    if scope.statistics == "running":
        _update_moving(layer.moving_mean, mean, layer.momentum)
        _update_moving(layer.moving_variance, variance, layer.momentum)


def _has_fused_kernel(scope: TaskScope, rows: tf.Tensor) -> bool:
    is_alone = scope.single and not scope.in_map
    if not is_alone or scope.xla or rows.dtype != tf.float32:
        return False
    # The GPU's kernel returns other statistics.
    return not tf.config.list_logical_devices("GPU")


def _fused(rows, gamma, beta, epsilon: float) -> tf.Tensor:
    """Standardizes, scales and shifts `[1, rows, channels]`."""
    channels = rows.shape[2]
    x = tf.reshape(rows, [-1, channels])
    scale = tf.ones([channels]) if gamma is None else gamma[0]
    shift = tf.zeros([channels]) if beta is None else beta[0]
    return fused_standardize(x, scale, shift, epsilon)


def _standardize(scope: TaskScope, x, axes, epsilon: float) -> tf.Tensor:
    if scope.in_map:
        # The second derivative of `tf.map_fn` cannot go through gradients
        # that are nested functions.
        return _shift_and_scale(x, *moments(x, axes), epsilon)
    return standardize(x, axes, epsilon)


def _shift_and_scale(x, mean, variance, epsilon: float) -> tf.Tensor:
    return (x - mean) * tf.math.rsqrt(variance + epsilon)


def _like_rows(mask, inputs, order, rows: tf.Tensor) -> tf.Tensor:
    """Spreads a mask over the inputs as Keras does, then reshapes to rows."""
    mask = tf.cast(mask, rows.dtype)[..., tf.newaxis]
    mask = tf.broadcast_to(mask, tf.shape(inputs))
    return tf.reshape(tf.transpose(mask, order), tf.shape(rows))


def _masked_moments(rows: tf.Tensor, mask: tf.Tensor):
    """Mean and variance of the entries whose mask is 1."""
    total = tf.reduce_sum(mask, axis=1, keepdims=True)
    total += keras.config.epsilon()
    mean = tf.reduce_sum(mask * rows, axis=1, keepdims=True) / total
    squares = mask * tf.math.squared_difference(rows, mean)
    return mean, tf.reduce_sum(squares, axis=1, keepdims=True) / total


def _update_moving(moving, batch: tf.Tensor, momentum: float):
    new = tf.stop_gradient(tf.reduce_mean(batch, axis=[0, 1]))
    old = tf.cast(moving, new.dtype)
    moving.assign(tf.cast(old * momentum + new * (1 - momentum), moving.dtype))


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
    y = _standardize(scope, x, axes, layer.epsilon)
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
    y = _standardize(scope, grouped, axes, layer.epsilon)
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
