"""Long unrolls in less memory: segments that are computed twice.

The gradient of an unrolled loop needs what every step computed. Here the
loop is cut into segments and only the carries between them are kept; the
gradient goes through the segments from the last to the first and computes
each once more from the carry before it. With the square root of the number
of steps as length, that keeps about two square roots of them in memory, for
the time of one more forward pass.

References:
    Griewank and Walther, Algorithm 799: revolve, ACM Transactions on
    Mathematical Software 26, 2000. Chen et al., Training Deep Nets with
    Sublinear Memory Cost, arXiv:1604.06174, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_meta._keras import is_recorded
from keras_meta.batching import task_axis
from keras_meta.inner.loop import TracedStep
from keras_meta.inner.loop import unroll

CHECKPOINTS = ("auto", "off", "step", "sqrt")
# Up to this number of steps, `"auto"` keeps everything, which is faster.
_STEPS_IN_MEMORY = 32


def segment_length(checkpoint: str, steps: int) -> int | None:
    """Returns how many steps make a segment, or `None` to keep everything.

    Args:
        checkpoint: `"off"`; `"step"`, each step a segment; `"sqrt"`, about
            as many steps as there are segments; `"auto"`, off up to 32 steps
            and `"sqrt"` beyond.
        steps: Number of steps of the loop.
    """
    if checkpoint == "step":
        return 1
    if checkpoint == "sqrt" or (
        checkpoint == "auto" and steps > _STEPS_IN_MEMORY
    ):
        return _length_near_root(steps)
    return None


def _length_near_root(steps: int) -> int:
    """Returns the square root of a number, or a divisor next to it.

    Steps left over after the last whole segment are compiled once more.
    """
    root = math.isqrt(max(steps - 1, 0)) + 1
    near = range(-(-root // 2), 2 * root + 1)
    divisors = [n for n in near if steps % n == 0]
    return min(divisors, key=lambda n: abs(math.log(n / root)), default=root)


def checkpointed_unroll(
    step: Callable[[int | tf.Tensor, Any, Any], tuple[Any, Any]],
    carry: Any,
    constants: Any,
    steps: int,
    length: int | None,
    *,
    lay_out: bool = True,
    xla: bool = True,
) -> tuple[Any, Any]:
    """Applies `step` a fixed number of times, see `unroll`.

    Args:
        step: Maps the number of the step, a carry and `constants` to the
            next carry and an output. Gradients reach its arguments, variables
            that it reads, and tensors around it that a tape records.
        carry: The first carry.
        constants: What all steps use, nested tensors.
        steps: Number of steps, at least 0.
        length: Steps of a segment, or `None` for a loop that keeps all.
        lay_out: See `unroll`. It matters to a loop that keeps all.
        xla: Likewise.

    Returns:
        The last carry, and the outputs stacked along a new first axis of
        size `steps` (`None` without steps). They can be differentiated once;
        with `length=None`, any number of times.
    """
    if length is None or steps == 0:
        return unroll(
            lambda i, c: step(i, c, constants),
            carry,
            steps,
            lay_out=lay_out,
            xla=xla,
        )
    parts = []
    full = steps // length
    for first, segments, size in (
        (0, full, length),
        (full * length, 1, steps % length),
    ):
        if segments and size:
            carry, outputs = _unroll_segments(
                step, carry, constants, first, segments, size
            )
            parts.append(outputs)
    return carry, keras.tree.map_structure(
        lambda *ys: tf.concat(ys, axis=0), *parts
    )


def _unroll_segments(step, carry, constants, first, segments: int, size: int):
    traced = TracedStep.of(lambda i, c: step(i, c, constants), carry)
    changing, same = traced.split(carry)
    structure = (changing, (same, constants))
    kept = len(changing)

    def segment(number, values):
        """Returns what a segment changes in the carry, and its outputs."""
        changed, (same, constants) = keras.tree.pack_sequence_as(
            structure, values
        )
        start = first + number * size
        end, outputs = unroll(
            lambda i, c: step(start + i, c, constants),
            traced.join(changed, same),
            size,
        )
        return traced.split(end)[0], outputs

    # What the step takes from around itself, such as a value that a loss
    # closes over, has a gradient like what it is given.
    given = keras.tree.flatten(structure)
    known = set(map(id, given))
    around = [
        tensor
        for tensor in traced.captured
        if id(tensor) not in known and is_recorded(tensor)
    ]
    values = [*given, *around]
    flat_outputs = [
        tf.TensorSpec([size, *y.shape], y.dtype)
        for y in keras.tree.flatten(traced.outputs)
    ]

    @tf.custom_gradient
    def function(*values):
        constants = values[kept : len(values) - len(around)]
        end, stacked, starts = _run(
            segment, values[:kept], constants, flat_outputs, segments
        )

        def gradient(*cotangents, variables=()):
            # TensorFlow passes the variables that a step reads.
            gradients = _backpropagate(
                segment,
                constants,
                [*around, *variables],
                starts,
                cotangents,
                segments,
            )
            count = len(values)
            if variables:
                return gradients[:count], gradients[count:]
            return gradients

        return (*end, *stacked), gradient

    results = function(*map(tf.convert_to_tensor, values))
    return (
        traced.join(results[:kept], same),
        keras.tree.pack_sequence_as(traced.outputs, results[kept:]),
    )


def _run(segment, carry, constants, outputs, segments: int):
    """Runs all segments.

    Returns:
        The last carry, the outputs of all steps, and the carries before each
        segment, `[segments, ...]`.
    """
    starts = [_array(segments, x.dtype, x.shape) for x in carry]
    results = [_array(segments, y.dtype, y.shape) for y in outputs]

    def body(number, carry, starts, results):
        starts = _write(starts, number, carry)
        carry, outputs = segment(number, [*carry, *constants])
        results = _write(results, number, keras.tree.flatten(outputs))
        return number + 1, carry, starts, results

    _, carry, starts, results = tf.while_loop(
        lambda number, *_: number < segments,
        body,
        (tf.zeros([], tf.int32), list(carry), starts, results),
        maximum_iterations=segments,
    )
    # Steps merge into segments and split off as tasks do into batches.
    stacked = [task_axis.merge(array.stack()) for array in results]
    return carry, stacked, [array.stack() for array in starts]


def _backpropagate(
    segment, constants, around, starts, cotangents, segments: int
):
    """Returns gradients for the first carry, the constants, and the rest.

    Args:
        segment: Computes a segment, see `_unroll_segments`.
        constants: What all segments are given.
        around: Tensors and variables that they take from around themselves.
        starts: The carries before each segment, `[segments, ...]`.
        cotangents: Gradients of the last carry and of the outputs.
        segments: Number of segments.
    """
    kept = len(starts)
    of_outputs = [
        task_axis.split(g, segments) if _is_float(g) else g
        for g in cotangents[kept:]
    ]

    def body(done, of_carry, of_constants):
        number = segments - 1 - done
        carry = [start[number] for start in starts]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            sources = [*_floats([*carry, *constants]), *around]
            tape.watch(sources)
            end, outputs = segment(number, [*carry, *constants])
            targets = _floats([*end, *keras.tree.flatten(outputs)])
        arriving = [g[number] for g in _floats(of_outputs)]
        gradients = tape.gradient(
            targets,
            sources,
            output_gradients=[*of_carry, *arriving],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        # Those of variables may be sparse.
        gradients = list(map(tf.convert_to_tensor, gradients))
        count = len(of_carry)
        return (
            done + 1,
            gradients[:count],
            [
                a + b
                for a, b in zip(of_constants, gradients[count:], strict=True)
            ],
        )

    @tf.custom_gradient
    def once(*differentiable):
        _, of_carry, of_constants = tf.while_loop(
            lambda done, *_: done < segments,
            body,
            (
                tf.zeros([], tf.int32),
                list(differentiable),
                [tf.zeros_like(x) for x in [*_floats(constants), *around]],
            ),
            maximum_iterations=segments,
        )
        return (*of_carry, *of_constants), _refuse_another_derivative

    gradients = iter(once(*_floats(cotangents[:kept])))
    return [
        next(gradients) if _is_float(x) else None
        for x in [*starts, *constants, *around]
    ]


def _refuse_another_derivative(*_, variables=()):
    raise NotImplementedError(
        "A checkpointed inner loop can be differentiated once. For higher "
        "derivatives of it pass meta_gradient=Unrolled(checkpoint='off')."
    )


def _array(size: int, dtype, shape) -> tf.TensorArray:
    return tf.TensorArray(dtype, size, element_shape=shape)


def _write(arrays, index, values):
    return [a.write(index, x) for a, x in zip(arrays, values, strict=True)]


def _floats(values):
    return [x for x in values if _is_float(x)]


def _is_float(x) -> bool:
    return x.dtype.is_floating
