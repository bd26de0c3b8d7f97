"""The unrolled loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_meta.unroll.permutations import fold_permutations

# Up to here the steps are laid out one after another, which lets the compiler
# see across them; past it a loop keeps the graph and its compile time small.
_LAID_OUT_STEPS = 10


def unroll(
    step: Callable[[int | tf.Tensor, Any], tuple[Any, Any]],
    carry: Any,
    steps: int,
) -> tuple[Any, Any]:
    """Applies `step` a fixed number of times.

    Args:
        step: Maps the number of the step and a carry to the next carry and
            an output; both nested tensors whose shapes do not change.
        carry: The first carry.
        steps: How often, at least 0.

    Returns:
        The last carry, and the outputs stacked along a new first axis of
        size `steps` (`None` without steps).
    """
    if steps == 0:
        return carry, None
    if steps <= _LAID_OUT_STEPS:
        outputs = []
        for i in range(steps):
            carry, output = step(i, carry)
            outputs.append(output)
        return carry, keras.tree.map_structure(lambda *y: tf.stack(y), *outputs)
    return _loop(step, carry, steps)


def _loop(step, carry, steps: int):
    # The first step is laid out so that the outputs' shapes are known.
    carry, first = step(0, carry)
    arrays = keras.tree.map_structure(
        lambda y: tf.TensorArray(
            y.dtype, steps, element_shape=y.shape, clear_after_read=False
        ).write(0, y),
        first,
    )

    def body(i, carry, arrays):
        carry, output = step(i, carry)
        fold_permutations()
        arrays = keras.tree.map_structure(
            lambda array, y: array.write(i, y), arrays, output
        )
        return i + 1, carry, arrays

    _, carry, arrays = tf.while_loop(
        lambda i, *_: i < steps,
        body,
        (tf.ones([], tf.int32), carry, arrays),
        maximum_iterations=steps - 1,
    )
    return carry, keras.tree.map_structure(lambda array: array.stack(), arrays)
