"""A convolution with one kernel per task, fast to any order of derivative.

A convolution is bilinear in its input `x` and its kernel `w`, and so are its
two derivatives: the transpose, from output to input, and the correlation of
input and output, which is the kernel's gradient. The three are each other's
derivatives. So three batched matrix products, each with the other two as its
gradient, are closed under differentiation.

Each spatial axis is split into blocks as long as the stride, so that a
position is `stride * block + residue`. Relative to an output, each position of
the window then lies a fixed number of blocks ahead at a fixed residue. So
cutting out patches, and adding them up again, needs only slices of step 1.
Along the last axis, residues lie next to the channels, so that one slice
covers several positions of the window.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import tensorflow as tf

from keras_meta.batching import task_axis


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Geometry of a convolution, with one entry per spatial axis.

    Attributes:
        size: Size of the input.
        window: Size of the window.
        strides: Stride of the window.
        dilation: Spacing of the window's positions.
        pads: Number of zeros before and after the input.
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
        """Number of positions in the window."""
        return math.prod(self.window)

    @property
    def reach(self) -> tuple[int, ...]:
        """How many blocks ahead the window's last position lies."""
        return tuple(
            (k - 1) * d // stride
            for k, d, stride in zip(
                self.window, self.dilation, self.strides, strict=True
            )
        )


def convolve(x: tf.Tensor, w: tf.Tensor, geometry: Geometry) -> tf.Tensor:
    """Convolves each task's input with its own kernel.

    Args:
        x: `[tasks, n, *space, channels]` with static spatial sizes.
        w: `[tasks, filters, taps * channels]`.
        geometry: The geometry.

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
    """Applies the transpose of `convolve` as a linear map of its input.

    Args:
        y: `[tasks, n, *output_space, filters]`.
        w: `[tasks, filters, taps * channels]`.
        geometry: The geometry.

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
    """Applies the transpose of `convolve` as a linear map of its kernel.

    Args:
        x: `[tasks, n, *space, channels]`.
        y: `[tasks, n, *output_space, filters]`.
        geometry: The geometry.

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


def _transpose(y, w, geometry: Geometry) -> tf.Tensor:
    patches = tf.matmul(_rows(y), w)
    patches = tf.reshape(patches, [*_lead(y), *geometry.output, w.shape[-1]])
    return _add_patches(patches, geometry)


def _patches(x, geometry: Geometry) -> tf.Tensor:
    """Cuts out patches: `[tasks, n * output_space, taps * channels]`."""
    blocks = [
        size + reach
        for size, reach in zip(geometry.output, geometry.reach, strict=True)
    ]
    channels = x.shape[-1]
    shape = _lead(x)
    for size, stride in zip(blocks, geometry.strides, strict=True):
        shape += [size, stride]
    shape[-1] *= channels
    x = tf.reshape(_fit(x, geometry, blocks), shape)
    parts = []
    for tap, length in _runs(geometry):
        ahead, residues = _place(tap, geometry)
        index = [slice(None), slice(None)]
        for a, size, residue in zip(
            ahead, geometry.output, residues, strict=True
        ):
            index += [slice(a, a + size), residue]
        start = residues[-1] * channels
        index[-1] = slice(start, start + length * channels)
        parts.append(x[tuple(index)])
    return _rows(_side_by_side(parts))


def _add_patches(patches, geometry: Geometry) -> tf.Tensor:
    """Applies the transpose of cutting out patches.

    Args:
        patches: `[tasks, n, *output_space, taps * channels]`.
        geometry: The geometry.

    Returns:
        `[tasks, n, *space, channels]`.
    """
    channels = patches.shape[-1] // geometry.taps
    # Just enough blocks to hold the input.
    blocks = [
        min(-(-(before + size) // stride), output + reach)
        for (before, _), size, stride, output, reach in zip(
            geometry.pads,
            geometry.size,
            geometry.strides,
            geometry.output,
            geometry.reach,
            strict=True,
        )
    ]
    sums = {}
    parts = tf.split(patches, geometry.taps, axis=-1)
    for tap, part in zip(_taps(geometry), parts, strict=True):
        ahead, residues = _place(tap, geometry)
        part = _move(part, ahead, blocks)
        sums[residues] = sums[residues] + part if residues in sums else part
    lead = _lead(patches)
    every_residue = list(itertools.product(*map(range, geometry.strides)))
    if len(sums) < len(every_residue):
        zeros = tf.zeros([*lead, *blocks, channels], patches.dtype)
        sums = dict.fromkeys(every_residue, zeros) | sums
    planes = [sums[residues] for residues in every_residue]
    # Planes of single residues are concatenated behind each block, from the
    # last axis to the first. That order needs no transposition.
    width = channels
    for axis in reversed(range(len(blocks))):
        stride = geometry.strides[axis]
        width *= stride * blocks[axis]
        planes = [
            tf.reshape(
                _side_by_side(planes[i : i + stride]),
                [*lead, *blocks[:axis], width],
            )
            for i in range(0, len(planes), stride)
        ]
    sizes = [b * s for b, s in zip(blocks, geometry.strides, strict=True)]
    x = tf.reshape(planes[0], [*lead, *sizes, channels])
    return _unfit(x, sizes, geometry)


def _taps(geometry: Geometry) -> list[tuple[int, ...]]:
    """Returns the window's positions in row-major order."""
    return list(itertools.product(*map(range, geometry.window)))


def _place(
    tap: tuple[int, ...], geometry: Geometry
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns how many blocks ahead a position lies, and its residues."""
    places = [
        divmod(t * d, s)
        for t, d, s in zip(
            tap, geometry.dilation, geometry.strides, strict=True
        )
    ]
    return tuple(zip(*places, strict=True))


def _runs(geometry: Geometry) -> list[tuple[tuple[int, ...], int]]:
    """Returns runs of adjacent positions as pairs (first, length)."""
    runs = []
    for tap in _taps(geometry):
        ahead, residues = _place(tap, geometry)
        if runs:
            first, length = runs[-1]
            its_ahead, start = _place(first, geometry)
            following = (*start[:-1], start[-1] + length)
            if (ahead, residues) == (its_ahead, following):
                runs[-1] = first, length + 1
                continue
        runs.append((tap, 1))
    return runs


def _move(part, ahead, blocks) -> tf.Tensor:
    """Moves `[tasks, n, *output_space, channels]` by whole blocks."""
    cuts, pads = [], []
    for a, size, total in zip(ahead, part.shape[2:-1], blocks, strict=True):
        before = min(a, total)
        kept = min(size, total - before)
        cuts.append((0, kept))
        pads.append((before, total - before - kept))
    return _pad(_cut(part, cuts), pads)


def _fit(x, geometry: Geometry, blocks) -> tf.Tensor:
    """Pads with zeros in front, then pads or crops to whole blocks."""
    sizes = [b * s for b, s in zip(blocks, geometry.strides, strict=True)]
    pads = [
        (before, max(total - before - size, 0))
        for (before, _), size, total in zip(
            geometry.pads, geometry.size, sizes, strict=True
        )
    ]
    return _cut(_pad(x, pads), [(0, size) for size in sizes])


def _unfit(x, sizes, geometry: Geometry) -> tf.Tensor:
    """Removes the padding. Positions that no window reached are zero."""
    missing = [
        (0, max(before + size - have, 0))
        for (before, _), size, have in zip(
            geometry.pads, geometry.size, sizes, strict=True
        )
    ]
    cuts = [
        (before, before + size)
        for (before, _), size in zip(geometry.pads, geometry.size, strict=True)
    ]
    return _cut(_pad(x, missing), cuts)


def _pad(x, pads) -> tf.Tensor:
    """Pads the spatial axes with zeros where needed."""
    if not any(map(any, pads)):
        return x
    return tf.pad(x, [(0, 0), (0, 0), *pads, (0, 0)])


def _cut(x, cuts) -> tf.Tensor:
    """Crops each spatial axis to the range from `start` to `end`."""
    if tuple(cuts) == tuple((0, size) for size in x.shape[2:-1]):
        return x
    return x[(slice(None), slice(None), *itertools.starmap(slice, cuts))]


def _side_by_side(parts: list[tf.Tensor]) -> tf.Tensor:
    """Concatenates along the channels.

    XLA unrolls loops over several short axes, which compile slowly and jump
    through memory. A loop over rows avoids both.
    """
    lead = [task_axis.size(parts[0], i) for i in range(parts[0].shape.rank - 1)]
    rows = [tf.reshape(part, [-1, part.shape[-1]]) for part in parts]
    joined = tf.concat(rows, axis=-1)
    return tf.reshape(joined, [*lead, joined.shape[-1]])


def _rows(x: tf.Tensor) -> tf.Tensor:
    """Reshapes `[tasks, n, *space, channels]` to `[tasks, n * space, ...]`."""
    space = math.prod(x.shape[2:-1])
    n = -1 if x.shape[1] is None else x.shape[1] * space
    return tf.reshape(x, [task_axis.size(x, 0), n, x.shape[-1]])


def _lead(x: tf.Tensor) -> list[int | tf.Tensor]:
    return [task_axis.size(x, axis) for axis in (0, 1)]
