"""The unrolled loop."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.kernels.permutations import fold_permutations

# Up to this number, second-order steps are laid out one after another, which
# is some 20 % faster: a loop stores what its gradient needs and reads it again.
# Beyond, a loop keeps the graph and its compile time small.
_LAID_OUT_STEPS = 10


def unroll(
    step: Callable[[int | tf.Tensor, Any], tuple[Any, Any]],
    carry: Any,
    steps: int,
    *,
    lay_out: bool = True,
    xla: bool = True,
) -> tuple[Any, Any]:
    """Applies `step` a fixed number of times.

    Args:
        step: Maps the number of the step and a carry to the next carry and
            an output; both nested tensors whose shapes do not change.
        carry: The first carry.
        steps: Number of steps, at least 0.
        lay_out: Whether few steps may be laid out one after another. That is
            worth its compile time if the steps are differentiated again.
        xla: Whether XLA may compile the steps. It takes many times as long
            for calls of one function, which are quicker to trace.

    Returns:
        The last carry, and the outputs stacked along a new first axis of
        size `steps` (`None` without steps).
    """
    if steps == 0:
        return carry, None
    few = steps <= (_LAID_OUT_STEPS if lay_out else 1)
    if steps == 1 or tf.executing_eagerly() or (few and xla):
        return _lay_out(step, carry, range(steps))
    # A tensor that no step changes stays the same, as if laid out.
    traced = TracedStep.of(step, carry)
    changing, same = traced.split(carry)

    def change(i, changing):
        end, output = step(i, traced.join(changing, same))
        return traced.split(end)[0], output

    if few:
        # One trace, and one of its gradient, serve all steps.
        change = tf.function(change, autograph=False)
        numbers = map(tf.constant, range(steps))
        changed, outputs = _lay_out(change, changing, numbers)
    else:
        changed, outputs = _loop(change, changing, steps, traced.outputs)
    return traced.join(changed, same), outputs


def _lay_out(step, carry, numbers):
    """Takes the steps of these numbers one after another."""
    outputs = []
    for i in numbers:
        carry, output = step(i, carry)
        outputs.append(output)
    return carry, keras.tree.map_structure(_stack, *outputs)


def _stack(*values: tf.Tensor) -> tf.Tensor:
    """Stacks values along a new first axis.

    TensorFlow 2.21 takes a slice of `tf.stack` back apart, and then loses
    reshapes that come out of a function and go into another reshape: the
    graph stays as it is, and is wrong inside a loop.
    """
    return tf.concat([value[tf.newaxis] for value in values], axis=0)


@dataclasses.dataclass(frozen=True)
class TracedStep:
    """What is known of a step before it is taken.

    Attributes:
        carry: Specs of the carry.
        outputs: Specs of the step's outputs.
        changes: For each tensor of the flat carry, whether the step returns
            another one.
        captured: Tensors that the step takes from around itself.
    """

    carry: Any
    outputs: Any
    changes: list[bool]
    captured: Sequence[tf.Tensor]

    @classmethod
    def of(cls, step: Callable, carry: Any) -> TracedStep:
        """Traces a step, see `unroll`; computes nothing."""
        changes = []

        def trace(i, carry):
            end, outputs = step(i, carry)
            flat = zip(
                keras.tree.flatten(end), keras.tree.flatten(carry), strict=True
            )
            changes[:] = [new is not old for new, old in flat]
            return outputs

        specs = keras.tree.map_structure(
            lambda x: tf.TensorSpec(x.shape, x.dtype), carry
        )
        traced = tf.function(trace, autograph=False).get_concrete_function(
            tf.TensorSpec([], tf.int32), specs
        )
        return cls(
            specs, traced.structured_outputs, changes, traced.captured_inputs
        )

    def split(self, carry: Any) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Returns what steps change in a carry, and what they do not."""
        flat = keras.tree.flatten(carry)
        stays = [not changes for changes in self.changes]
        return (
            list(itertools.compress(flat, self.changes)),
            list(itertools.compress(flat, stays)),
        )

    def join(
        self, changed: Sequence[tf.Tensor], same: Sequence[tf.Tensor]
    ) -> Any:
        """Undoes `split`."""
        changed, same = iter(changed), iter(same)
        flat = [next(changed if x else same) for x in self.changes]
        return keras.tree.pack_sequence_as(self.carry, flat)


def _loop(step, carry, steps: int, outputs):
    """Takes the steps in a loop; `outputs` are specs of a step's."""
    arrays = keras.tree.map_structure(
        lambda y: tf.TensorArray(y.dtype, steps, element_shape=y.shape),
        outputs,
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
        (tf.zeros([], tf.int32), carry, arrays),
        maximum_iterations=steps,
    )
    return carry, keras.tree.map_structure(lambda array: array.stack(), arrays)
