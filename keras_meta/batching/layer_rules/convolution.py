"""Rules of the convolution layers.

A convolution with one kernel per task has no fast operation, neither on the
CPU nor on the GPU: grouped convolutions run one small product after another.
Cut into patches it is a batched matrix product, which is fast on both and has
matrix products as derivatives of any order. A convolution of one task alone is
TensorFlow's own, where it has all derivatives.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.batching.layer_rules.core import activate
from keras_meta.batching.layer_rules.registry import rule
from keras_meta.batching.task_scope import TaskScope
from keras_meta.kernels import task_convolution

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)
_TRANSPOSES = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)


def is_convolution(layer: keras.Layer) -> bool:
    """Whether a layer is a convolution of any kind."""
    return isinstance(
        layer, (*_CONVOLUTIONS, *_TRANSPOSES, *_DEPTHWISE, *_SEPARABLE)
    )


def has_all_kernels(layer: keras.Layer) -> bool:
    """Whether TensorFlow can differentiate a layer twice on any device.

    On the CPU it lacks kernels for what is unusual in a convolution.
    """
    if not is_convolution(layer):
        return True
    dilation = layer.dilation_rate
    return (
        layer.data_format == "channels_last"
        and getattr(layer, "groups", 1) == 1
        and set(keras.tree.flatten(dilation)) == {1}
    )


@rule(*_CONVOLUTIONS, in_xla=True)
def convolution(layer, scope: TaskScope, inputs):
    """Patches times batched matrices."""
    x = _channels_last(layer, inputs)
    if scope.is_adapted(layer._kernel):
        kernel = scope.weight(layer._kernel)
        y = _convolve(x, kernel, scope.tasks, layer)
    elif scope.is_xla_on_cpu:
        kernel = tf.convert_to_tensor(layer.kernel)[tf.newaxis]
        y = _convolve(x, kernel, 1, layer)
    else:
        y = _shared(layer, x)
    return _finish(layer, scope, y)


@rule(*_TRANSPOSES)
def transposed_convolution(layer, scope: TaskScope, inputs):
    """The transpose of the convolution by which the layer is defined."""
    x = _channels_last(layer, inputs)
    kernel = scope.weight(layer.kernel)
    geometry = _geometry(layer, _output_space(layer, x))
    if geometry is None:
        raise ValueError(
            f"Layer '{layer.name}' needs inputs of static size to be adapted. "
            f"Received: shape={inputs.shape}. Give the model a keras.Input "
            "of fixed size."
        )
    x = task_axis.split(x, scope.tasks)
    kernel = task_axis.stack_to(kernel, scope.tasks)
    y = task_convolution.transpose(x, _filter_rows(kernel), geometry)
    return _finish(layer, scope, task_axis.merge(y))


@rule(*_DEPTHWISE)
def depthwise_convolution(layer, scope: TaskScope, inputs):
    """One small filter bank per channel and task."""
    x = _channels_last(layer, inputs)
    y = _convolve_depthwise(x, scope.weight(layer.kernel), scope.tasks, layer)
    return _finish(layer, scope, y)


@rule(*_SEPARABLE)
def separable_convolution(layer, scope: TaskScope, inputs):
    """A depthwise convolution, then a product over the channels."""
    x = _channels_last(layer, inputs)
    depthwise = scope.weight(layer.depthwise_kernel)
    x = _convolve_depthwise(x, depthwise, scope.tasks, layer)
    pointwise = scope.weight(layer.pointwise_kernel)
    pointwise = tf.reshape(pointwise, [-1, *pointwise.shape[-2:]])
    y = tf.matmul(_rows(x, scope.tasks), pointwise)
    return _finish(layer, scope, _unrows(y, space(x)))


def patches(
    x: tf.Tensor,
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    padding: str,
    fill: float = 0.0,
) -> list[tf.Tensor]:
    """Returns the input under every position of a sliding window.

    Args:
        x: `[batch, *space, channels]`.
        window: Size of the window on each axis of space.
        strides: Step of the window on each axis.
        dilation: Spacing of the window's positions on each axis.
        padding: `"valid"`, `"same"` or `"causal"`.
        fill: The value outside the input.

    Returns:
        A list over the window's positions in row-major order of tensors
        `[batch, *output_space, channels]`.
    """
    spans = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    if padding != "valid":
        pads = [
            _padding(size, span, stride, padding)
            for size, span, stride in zip(space(x), spans, strides, strict=True)
        ]
        x = tf.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)
    sizes = [
        (size - span) // stride + 1
        for size, span, stride in zip(space(x), spans, strides, strict=True)
    ]
    return [
        x[(slice(None), *_slices(offset, sizes, strides, dilation))]
        for offset in itertools.product(*map(range, window))
    ]


def space(x: tf.Tensor) -> list[int | tf.Tensor]:
    """Returns the sizes of the axes between batch and channels."""
    return [task_axis.size(x, axis) for axis in range(1, x.shape.rank - 1)]


def _slices(offset, sizes, strides, dilation) -> list[slice]:
    slices = []
    for position, size, stride, step in zip(
        offset, sizes, strides, dilation, strict=True
    ):
        start = position * step
        slices.append(slice(start, start + (size - 1) * stride + 1, stride))
    return slices


def _padding(size: int | tf.Tensor, span: int, stride: int, mode: str):
    if mode == "causal":
        return span - 1, 0
    total = (-(-size // stride) - 1) * stride + span - size
    total = max(total, 0) if isinstance(total, int) else tf.nn.relu(total)
    return total // 2, total - total // 2


def _convolve(x, kernel, tasks, layer) -> tf.Tensor:
    """Convolves `[tasks * n, ...]` with `[tasks, ...]` kernels."""
    geometry = _geometry(layer, x.shape[1:-1])
    if geometry is None or layer.groups > 1:
        return _convolve_patches(x, kernel, tasks, layer)
    x = task_axis.split(x, tasks)
    y = task_convolution.convolve(x, _filter_rows(kernel), geometry)
    return task_axis.merge(y)


def _filter_rows(kernel: tf.Tensor) -> tf.Tensor:
    """`[tasks, *window, in, out]` to `[tasks, out, taps * in]`."""
    *rest, filters = kernel.shape[1:]
    rows = tf.reshape(
        kernel, [task_axis.size(kernel, 0), math.prod(rest), filters]
    )
    return tf.transpose(rows, [0, 2, 1])


def _geometry(layer, size) -> task_convolution.Geometry | None:
    if None in tuple(size):
        return None
    spans = [
        (k - 1) * d + 1
        for k, d in zip(layer.kernel_size, layer.dilation_rate, strict=True)
    ]
    pads = [
        (0, 0)
        if layer.padding == "valid"
        else _padding(n, span, stride, layer.padding)
        for n, span, stride in zip(size, spans, layer.strides, strict=True)
    ]
    return task_convolution.Geometry(
        tuple(size),
        tuple(layer.kernel_size),
        tuple(layer.strides),
        tuple(layer.dilation_rate),
        tuple(pads),
    )


def _convolve_patches(x, kernel, tasks, layer) -> tf.Tensor:
    """Covers groups and space of unknown size by automatic differentiation."""
    *window, channels, filters = kernel.shape.as_list()[1:]
    groups = getattr(layer, "groups", 1)
    parts = patches(
        x, window, layer.strides, layer.dilation_rate, layer.padding
    )
    rows = _rows(tf.stack(parts, axis=-2), tasks)
    rows = tf.reshape(rows, [tasks, -1, len(parts), groups, channels])
    matrix = tf.reshape(
        kernel, [-1, len(parts), channels, groups, filters // groups]
    )
    y = tf.einsum("tnpgc,tpcgf->tngf", rows, matrix)
    return _unrows(tf.reshape(y, [tasks, -1, filters]), space(parts[0]))


def _convolve_depthwise(x, kernel, tasks, layer) -> tf.Tensor:
    *window, channels, multiplier = kernel.shape.as_list()[1:]
    strides = layer.strides
    dilation = layer.dilation_rate
    parts = patches(
        x,
        window,
        (strides,) * len(window) if isinstance(strides, int) else strides,
        (dilation,) * len(window) if isinstance(dilation, int) else dilation,
        layer.padding,
    )
    taps = tf.reshape(kernel, [-1, len(parts), 1, channels, multiplier])
    y = tf.add_n(
        [
            tf.reshape(part, [tasks, -1, channels, 1]) * taps[:, i]
            for i, part in enumerate(parts)
        ]
    )
    y = tf.reshape(y, [tasks, -1, channels * multiplier])
    return _unrows(y, space(parts[0]))


def _rows(x: tf.Tensor, tasks) -> tf.Tensor:
    """`[tasks * n, *space, channels]` to `[tasks, n * space, channels]`."""
    return tf.reshape(x, [tasks, -1, x.shape[-1]])


def _unrows(y: tf.Tensor, shape) -> tf.Tensor:
    """`[tasks, n * space, channels]` to `[tasks * n, *space, channels]`."""
    return tf.reshape(y, [-1, *shape, y.shape[-1]])


def _shared(layer, x: tf.Tensor) -> tf.Tensor:
    padding = layer.padding
    if padding == "causal":
        span = (layer.kernel_size[0] - 1) * layer.dilation_rate[0]
        x = tf.pad(x, [(0, 0), (span, 0), (0, 0)])
        padding = "valid"
    return keras.ops.conv(
        x,
        layer.kernel,
        strides=list(layer.strides),
        padding=padding,
        dilation_rate=layer.dilation_rate,
        data_format="channels_last",
    )


def _output_space(layer, x: tf.Tensor) -> list[int | None]:
    shape = list(x.shape)
    if layer.data_format == "channels_first":
        shape = [shape[0], shape[-1], *shape[1:-1]]
        return list(layer.compute_output_shape(shape))[2:]
    return list(layer.compute_output_shape(shape))[1:-1]


def _finish(layer, scope: TaskScope, y: tf.Tensor) -> tf.Tensor:
    if layer.use_bias:
        bias = scope.weight(layer.bias)[:, tf.newaxis]
        y = _unrows(_rows(y, scope.tasks) + bias, space(y))
    if layer.data_format == "channels_first":
        rank = y.shape.rank
        y = tf.transpose(y, [0, rank - 1, *range(1, rank - 1)])
    return activate(layer, y)


def _channels_last(layer, x: tf.Tensor) -> tf.Tensor:
    if layer.data_format == "channels_last":
        return x
    return tf.transpose(x, [0, *range(2, x.shape.rank), 1])
