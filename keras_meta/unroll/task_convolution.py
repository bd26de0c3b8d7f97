"""A convolution with one kernel per task, fast to any order of derivative.

As a function of input `x` and kernel `w` a convolution is bilinear, and so
are its two derivatives: the transpose, from output to input, and the
correlation of input and output, which is the kernel's gradient. The three
are each other's derivatives, so a triple of batched matrix products, each
with the other two as its gradient, is closed under differentiation.

Each axis of space is cut into blocks as long as the stride, so that a
position is `stride * block + residue`. Seen from one output, a position of
the window is then some blocks ahead at a fixed residue: cutting out patches
and adding them up again need slices of step 1 alone, and along the last axis
residues are neighbours of the channels, so that several positions of the
window are one slice.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import NamedTuple

import tensorflow as tf

from keras_meta.unroll import task_axis


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
    def taps(self) -> int:
        """Number of the window's positions."""
        return math.prod(self.window)

    @property
    def reach(self) -> tuple[int, ...]:
        """How many blocks ahead the window's last position is."""
        return tuple(
            (k - 1) * d // stride
            for k, d, stride in zip(
                self.window, self.dilation, self.strides, strict=True
            )
        )


class _Piece(NamedTuple):
    """Positions of the window that lie side by side in memory.

    Attributes:
        blocks: How many blocks ahead they are, on each axis.
        residues: Their place in a block, on each axis; on the last one the
            place of the first of them.
        first: The first one's number, in row-major order of the window.
        length: How many they are.
    """

    blocks: tuple[int, ...]
    residues: tuple[int, ...]
    first: int
    length: int


def convolve(x: tf.Tensor, w: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """Convolves each task's input with its own kernel.

    Args:
        x: `[tasks, n, *space, channels]` with static space.
        w: `[tasks, filters, taps * channels]`.
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
        w: `[tasks, filters, taps * channels]`.
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
        `[tasks, filters, taps * channels]`.
    """

    @tf.custom_gradient
    def function(x, y):
        def gradient(dw):
            return transpose(y, dw, geometry), convolve(x, dw, geometry)

        return _correlate(x, y, geometry), gradient

    return function(x, y)


def _convolve(x, w, geometry: Geometry) -> tf.Tensor:
    y = tf.matmul(_patches(x, geometry), w, transpose_b=True)
    return tf.reshape(y, [*_lead(x), *geometry.output, w.shape[1]])


def _correlate(x, y, geometry: Geometry) -> tf.Tensor:
    return tf.matmul(_rows(y), _patches(x, geometry), transpose_a=True)


def _patches(x, geometry: Geometry) -> tf.Tensor:
    """Cuts out patches: `[tasks, n * output_space, taps * channels]`."""
    # Whatever tasks are, the same patches are computed only once.
    columns = _columns(task_axis.merge(x), geometry)
    return tf.reshape(columns, [_tasks(x), _count(x, geometry.output), columns.shape[-1]])


def _transpose(y, w, geometry: Geometry) -> tf.Tensor:
    columns = tf.matmul(_rows(y), w)
    columns = tf.reshape(columns, [*_lead(y), *geometry.output, w.shape[-1]])
    return _add_columns(columns, geometry)


def _columns(x, geometry: Geometry) -> tf.Tensor:
    """Cuts out patches: `[tasks * n, *output_space, taps * channels]`."""
    blocks = [
        size + reach
        for size, reach in zip(geometry.output, geometry.reach, strict=True)
    ]
    channels = x.shape[-1]
    x = _fit(x, geometry, [b * s for b, s in zip(blocks, geometry.strides, strict=True)])
    shape = [_tasks(x)]
    for size, stride in zip(blocks, geometry.strides, strict=True):
        shape += [size, stride]
    shape[-1] *= channels
    x = tf.reshape(x, shape)
    parts = []
    for piece in _pieces(geometry):
        index = [slice(None)]
        for block, size, residue in zip(
            piece.blocks, geometry.output, piece.residues, strict=True
        ):
            index += [slice(block, block + size), residue]
        start = piece.residues[-1] * channels
        index[-1] = slice(start, start + piece.length * channels)
        parts.append(x[tuple(index)])
    return tf.concat(parts, axis=-1)


def _add_columns(columns, geometry: Geometry) -> tf.Tensor:
    """Applies the transpose of `_columns`."""
    channels = columns.shape[-1] // geometry.taps
    blocks = [
        min(-(-(before + size) // stride), out + reach)
        for (before, _), size, stride, out, reach in zip(
            geometry.pads,
            geometry.size,
            geometry.strides,
            geometry.output,
            geometry.reach,
            strict=True,
        )
    ]
    planes = {}
    for piece in _pieces(geometry):
        for lane in range(piece.length):
            residues = (*piece.residues[:-1], piece.residues[-1] + lane)
            part = _place(columns, piece, lane, geometry, blocks, channels)
            planes.setdefault(residues, []).append(part)
    lead = _lead(columns)
    empty = tf.zeros([*lead, *blocks, channels], columns.dtype)
    planes = [
        tf.add_n(planes[residues]) if residues in planes else empty
        for residues in itertools.product(*map(range, geometry.strides))
    ]
    # Planes are put side by side behind each block, from the last axis to
    # the first, which needs no transposition.
    for axis in reversed(range(len(blocks))):
        stride = geometry.strides[axis]
        planes = [
            tf.reshape(
                tf.concat([tf.reshape(p, [*lead, *blocks[:axis+1], -1]) for p in planes[i : i + stride]], axis=-1),
                [*lead, *blocks[:axis], -1],
            )
            for i in range(0, len(planes), stride)
        ]
    sizes = [b * s for b, s in zip(blocks, geometry.strides, strict=True)]
    x = tf.reshape(planes[0], [*lead, *sizes, channels])
    return _unfit(x, sizes, geometry)


def _place(columns, piece: _Piece, lane, geometry, blocks, channels):
    cuts, pads = [slice(None)] * 2, [(0, 0)] * 2
    for ahead, size, total in zip(piece.blocks, geometry.output, blocks, strict=True):
        kept = min(size, total - ahead)
        cuts.append(slice(0, kept))
        pads.append((ahead, total - ahead - kept))
    first = (piece.first + lane) * channels
    cuts.append(slice(first, first + channels))
    return tf.pad(columns[tuple(cuts)], [*pads, (0, 0)])


def _pieces(geometry: Geometry) -> list[_Piece]:
    """Returns the window's positions, neighbours together, in order."""
    pieces = []
    for number, tap in enumerate(
        itertools.product(*map(range, geometry.window))
    ):
        places = [
            divmod(t * d, s)
            for t, d, s in zip(
                tap, geometry.dilation, geometry.strides, strict=True
            )
        ]
        blocks, residues = zip(*places, strict=True)
        if pieces:
            last = pieces[-1]
            follows = (*last.residues[:-1], last.residues[-1] + last.length)
            if last.blocks == blocks and follows == residues:
                pieces[-1] = last._replace(length=last.length + 1)
                continue
        pieces.append(_Piece(blocks, residues, number, 1))
    return pieces


def _fit(x, geometry: Geometry, sizes) -> tf.Tensor:
    """Pads with the zeros that come before and up to `sizes`, or cuts."""
    pads = [
        (before, max(total - before - size, 0))
        for (before, _), size, total in zip(
            geometry.pads, geometry.size, sizes, strict=True
        )
    ]
    x = tf.pad(x, [(0, 0), *pads, (0, 0)])
    return x[(slice(None), *map(slice, sizes))]


def _unfit(x, sizes, geometry: Geometry) -> tf.Tensor:
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
    return tf.reshape(x, [_tasks(x), _count(x, x.shape[2:-1]), x.shape[-1]])


def _count(x: tf.Tensor, space) -> int:
    return -1 if x.shape[1] is None else x.shape[1] * math.prod(space)


def _lead(x: tf.Tensor) -> list[int | tf.Tensor]:
    return [
        tf.shape(x)[i] if x.shape[i] is None else x.shape[i] for i in (0, 1)
    ]


def _tasks(x: tf.Tensor) -> int | tf.Tensor:
    return tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
