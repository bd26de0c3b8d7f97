"""A convolution with one kernel per task, fast to any order of derivative.

As a function of input `x` and kernel `w` a convolution is bilinear, and so
are its two derivatives: the transpose, from output to input, and the
correlation of input and output, which is the kernel's gradient. The three
are each other's derivatives, so a triple of batched matrix products, each
with the other two as its gradient, is closed under differentiation.

Left to automatic differentiation, the transpose becomes a sum of padded
slices that XLA computes again in every operation that reads it; here it is a
matrix product too.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Where a convolution's window goes; one entry per axis of space.

    Attributes:
        size: Size of the input.
        window: Size of the window.
        strides: Step of the window.
        dilation: Spacing of the window's positions.
        pads: Zeros before and after the input.
    """

    size: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]

    @property
    def output(self) -> tuple[int, ...]:
        """Size of the output."""
        return tuple(
            (size + before + after - (k - 1) * d - 1) // stride + 1
            for size, k, stride, d, (before, after) in zip(
                self.size,
                self.window,
                self.strides,
                self.dilation,
                self.pads,
                strict=True,
            )
        )

    @property
    def taps(self) -> list[tuple[int, ...]]:
        """The window's positions in row-major order."""
        return list(itertools.product(*map(range, self.window)))


def convolve(x: tf.Tensor, w: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """Convolves each task's input with its own kernel.

    Args:
        x: `[tasks, n, *space, channels]` with static space.
        w: `[tasks, taps, channels, filters]`.
        geometry: The window's path.

    Returns:
        `[tasks, n, *output_space, filters]`.
    """

    @tf.custom_gradient
    def function(x, w):
        def gradient(dy):
            return transpose(dy, w, geometry), correlate(x, dy, geometry)

        return _convolve(x, w, geometry), gradient

    return function(x, w)


def transpose(y: tf.Tensor, w: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """Applies the transpose of `convolve`, seen as linear in its input.

    Args:
        y: `[tasks, n, *output_space, filters]`.
        w: `[tasks, taps, channels, filters]`.
        geometry: The window's path.

    Returns:
        `[tasks, n, *space, channels]`.
    """

    @tf.custom_gradient
    def function(y, w):
        def gradient(dx):
            return convolve(dx, w, geometry), correlate(dx, y, geometry)

        return _transpose(y, w, geometry), gradient

    return function(y, w)


def correlate(x: tf.Tensor, y: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """Applies the transpose of `convolve`, seen as linear in its kernel.

    Args:
        x: `[tasks, n, *space, channels]`.
        y: `[tasks, n, *output_space, filters]`.
        geometry: The window's path.

    Returns:
        `[tasks, taps, channels, filters]`.
    """

    @tf.custom_gradient
    def function(x, y):
        def gradient(dw):
            return transpose(y, dw, geometry), convolve(x, dw, geometry)

        return _correlate(x, y, geometry), gradient

    return function(x, y)


def _convolve(x, w, geometry: Geometry) -> tf.Tensor:
    rows = _rows(_columns(x, geometry))
    matrix = tf.reshape(w, [_tasks(w), -1, w.shape[-1]])
    y = tf.matmul(rows, matrix)
    return tf.reshape(y, [*_lead(x), *geometry.output, w.shape[-1]])


def _correlate(x, y, geometry: Geometry) -> tf.Tensor:
    rows = _rows(_columns(x, geometry))
    w = tf.matmul(rows, _rows(y), transpose_a=True)
    taps = len(geometry.taps)
    return tf.reshape(w, [_tasks(x), taps, x.shape[-1], y.shape[-1]])


def _columns(x, geometry: Geometry) -> tf.Tensor:
    """Returns `[tasks, n, *output_space, taps * channels]`."""
    x = tf.pad(x, [(0, 0), (0, 0), *geometry.pads, (0, 0)])
    parts = []
    for tap in geometry.taps:
        starts = [t * d for t, d in zip(tap, geometry.dilation, strict=True)]
        cuts = [
            slice(start, start + (size - 1) * stride + 1, stride)
            for start, size, stride in zip(
                starts, geometry.output, geometry.strides, strict=True
            )
        ]
        parts.append(x[(slice(None), slice(None), *cuts)])
    return tf.concat(parts, axis=-1)


def _transpose(y, w, geometry: Geometry) -> tf.Tensor:
    """Gathers what reaches each input position.

    A position of the padded input is `stride * place + residue`. The taps
    that reach it depend on the residue alone, so for each residue one dense
    product over those taps gives all places; then places and residues are
    interleaved.
    """
    rank = len(geometry.size)
    reach = [
        (k - 1) * d // s
        for k, d, s in zip(
            geometry.window, geometry.dilation, geometry.strides, strict=True
        )
    ]
    places = [o + r for o, r in zip(geometry.output, reach, strict=True)]
    pads = [(r, r) for r in reach]
    padded = tf.pad(y, [(0, 0), (0, 0), *pads, (0, 0)])
    planes = [
        _plane(padded, w, geometry, residue, reach, places)
        for residue in itertools.product(*map(range, geometry.strides))
    ]
    # From the last axis of space to the first, the residues' planes are put
    # side by side behind each place, which needs no transposition.
    lead, channels = _lead(y), w.shape[2]
    for axis in reversed(range(rank)):
        stride = geometry.strides[axis]
        planes = [
            tf.reshape(
                tf.concat(planes[i : i + stride], axis=-1),
                [*lead, *places[:axis], -1],
            )
            for i in range(0, len(planes), stride)
        ]
    sizes = [p * s for p, s in zip(places, geometry.strides, strict=True)]
    x = tf.reshape(planes[0], [*lead, *sizes, channels])
    return _unpad(x, sizes, geometry)


def _plane(padded, w, geometry, residue, reach, places) -> tf.Tensor:
    taps = [
        (index, tap)
        for index, tap in enumerate(geometry.taps)
        if all(
            t * d % s == r
            for t, d, s, r in zip(
                tap, geometry.dilation, geometry.strides, residue, strict=True
            )
        )
    ]
    channels = w.shape[2]
    if not taps:
        return tf.zeros([*_lead(padded), *places, channels], padded.dtype)
    parts = []
    for _, tap in taps:
        starts = [
            r - t * d // s
            for r, t, d, s in zip(
                reach, tap, geometry.dilation, geometry.strides, strict=True
            )
        ]
        cuts = [
            slice(start, start + size)
            for start, size in zip(starts, places, strict=True)
        ]
        parts.append(padded[(slice(None), slice(None), *cuts)])
    rows = _rows(tf.concat(parts, axis=-1))
    kernel = tf.stack([w[:, index] for index, _ in taps], axis=2)
    matrix = tf.reshape(kernel, [_tasks(w), channels, -1])
    x = tf.matmul(rows, matrix, transpose_b=True)
    return tf.reshape(x, [*_lead(padded), *places, channels])


def _unpad(x, sizes, geometry: Geometry) -> tf.Tensor:
    """Cuts off the padding; positions that no window reached are zero."""
    missing = [
        max(before + size - have, 0)
        for (before, _), size, have in zip(
            geometry.pads, geometry.size, sizes, strict=True
        )
    ]
    if any(missing):
        x = tf.pad(x, [(0, 0), (0, 0), *[(0, m) for m in missing], (0, 0)])
    cuts = [
        slice(before, before + size)
        for (before, _), size in zip(geometry.pads, geometry.size, strict=True)
    ]
    return x[(slice(None), slice(None), *cuts)]


def _rows(x: tf.Tensor) -> tf.Tensor:
    """`[tasks, n, *space, channels]` to `[tasks, n * space, channels]`."""
    space = math.prod(x.shape[2:-1])
    n = -1 if x.shape[1] is None else x.shape[1] * space
    return tf.reshape(x, [_tasks(x), n, x.shape[-1]])


def _lead(x: tf.Tensor) -> list[int | tf.Tensor]:
    return [
        tf.shape(x)[i] if x.shape[i] is None else x.shape[i] for i in (0, 1)
    ]


def _tasks(x: tf.Tensor) -> int | tf.Tensor:
    return tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
