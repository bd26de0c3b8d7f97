"""Splits a meta-batch into blocks of tasks that fit the processor's cache.

All tasks together make long arrays, which suits a GPU. On a CPU, the arrays of
one operation have left the cache before the next operation reads them. Tasks
are independent, so a step can instead process one block of tasks from start to
end, while other cores process other blocks.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_meta._keras import is_stateful
from keras_meta.batching import task_axis
from keras_meta.batching.layer_rules.convolution import has_all_kernels
from keras_meta.batching.layer_rules.convolution import is_convolution

# Approximate size of a core's second-level cache.
_CACHE_BYTES = 2**21
# Up to this size, convolutions are faster as products of patches. Measured with
# two networks, images of 28x28 and 84x84, and 1 and 15 queries per class.
_PATCHES_BYTES = 3 * _CACHE_BYTES
# Operations that count as stateful but change nothing themselves.
_HARMLESS = {"If", "ReadVariableOp", "StatefulPartitionedCall", "While"}


class Inseparable(Exception):
    """A step's tasks depend on each other or change shared state."""


def block_size(tasks: int | None, bytes_per_task: int) -> int | None:
    """Returns the number of tasks in a block, or `None` for a single block.

    Args:
        tasks: Number of tasks in the meta-batch, if known.
        bytes_per_task: Bytes that one operation on one task reads and writes.
    """
    if tasks is None or tf.config.list_logical_devices("GPU"):
        return None
    wanted = max(_CACHE_BYTES // bytes_per_task, 1)
    if wanted >= tasks:
        return None
    # Blocks far smaller than the cache do not pay for their calls.
    sizes = range(max(wanted // 4, 1), min(wanted, tasks // 2) + 1)
    return max((size for size in sizes if tasks % size == 0), default=None)


def working_set(model: keras.Model, inputs: Any, examples: int) -> int:
    """Estimates the bytes that one operation on one task reads and writes.

    Args:
        model: The network.
        inputs: Its inputs, nested as it expects them, `[tasks, n, ...]` each.
        examples: Number of support and query examples in a task.
    """
    specs = keras.tree.map_structure(
        lambda x: tf.TensorSpec([None, *x.shape[2:]], x.dtype), inputs
    )
    trace = tf.function(
        lambda x: model(x, training=False), autograph=False
    ).get_concrete_function(specs)
    largest = max(
        _bytes_of_example(output)
        for operation in trace.graph.get_operations()
        for output in operation.outputs
    )
    weights = sum(
        math.prod(v.shape) * tf.as_dtype(v.dtype).size
        for v in model.trainable_variables
    )
    return weights + examples * largest


def has_plain_kernels(model: keras.Model) -> bool:
    """Whether TensorFlow has CPU kernels for all of a network's convolutions.

    Args:
        model: The network.
    """
    if tf.config.list_logical_devices("GPU"):
        return False
    layers = list(model._flatten_layers())
    return any(map(is_convolution, layers)) and all(
        map(has_all_kernels, layers)
    )


def is_faster_plain(model: keras.Model, bytes_per_task: int) -> bool:
    """Whether processing tasks one by one without XLA is faster.

    XLA computes convolutions as products of patches, which copy the input
    several times. That is faster as long as the copies fit into the cache.

    Args:
        model: The network.
        bytes_per_task: See `block_size`.
    """
    return bytes_per_task > _PATCHES_BYTES and has_plain_kernels(model)


def map_blocks(
    function: Callable,
    size: int,
    arguments: tuple[Any, ...],
    *,
    jit_compile: bool = True,
) -> tuple[Any, Any]:
    """Calls a function for each block of tasks, compiled once.

    The blocks are divided among parallel loops, one per core.

    Args:
        function: A function of `arguments` for a block of tasks. It returns
            nested tensors to add up and nested tensors to stack.
        size: Number of tasks in a block; divides the number of tasks.
        arguments: Nested tensors, `[tasks, ...]` each, and `None`s. The
            number of tasks may be unknown.
        jit_compile: Whether XLA compiles the function.

    Returns:
        The sums over the blocks, and the stacked tensors, `[blocks, ...]`.

    Raises:
        Inseparable: If the function changes variables or draws random
            numbers, so that the order of the blocks would matter.
    """
    flat = [x for x in keras.tree.flatten(arguments) if x is not None]
    blocks = task_axis.size(flat[0], 0) // size

    def part(i):
        def cut(x):
            if x is None:
                return None
            rest = range(1, x.shape.rank)
            return tf.slice(
                x,
                [i * size, *[0 for _ in rest]],
                [size, *[task_axis.size(x, axis) for axis in rest]],
            )

        return keras.tree.map_structure(cut, arguments)

    compiled = tf.function(
        function,
        autograph=False,
        jit_compile=jit_compile or None,
        # If it were inlined, each loop would optimize its own copy.
        experimental_attributes=None if jit_compile else {"_noinline": True},
    )
    traced = compiled.get_concrete_function(*part(0))
    changes = _changes(traced.graph)
    if changes:
        raise Inseparable(f"the step uses {sorted(changes)}")
    if not isinstance(blocks, int):
        _require_known_shapes(traced.structured_outputs[1])
    lanes = min(_cores(), blocks) if isinstance(blocks, int) else _cores()
    ends = [blocks * (lane + 1) // lanes for lane in range(lanes)]
    results = [
        _loop(lambda i: compiled(*part(i)), traced.structured_outputs, i, end)
        for i, end in zip([0, *ends], ends, strict=False)
    ]
    sums, stacks = zip(*results, strict=True)
    return (
        keras.tree.map_structure(lambda *xs: tf.add_n(xs), *sums),
        keras.tree.map_structure(lambda *xs: tf.concat(xs, 0), *stacks),
    )


def _require_known_shapes(specs) -> None:
    """Refuses outputs of unknown shape, which an empty loop cannot stack."""
    if not all(x.shape.is_fully_defined() for x in keras.tree.flatten(specs)):
        raise Inseparable("neither tasks nor outputs have known sizes")


def _loop(function, specs, first: int | tf.Tensor, end: int | tf.Tensor):
    """Adds up and stacks the results of `function` for `first` to `end - 1`."""
    sums = keras.tree.map_structure(
        lambda x: tf.zeros(x.shape, x.dtype), specs[0]
    )
    arrays = keras.tree.map_structure(
        lambda x: tf.TensorArray(x.dtype, end - first, element_shape=x.shape),
        specs[1],
    )

    def body(i, sums, arrays):
        to_add, to_stack = function(i)
        sums = keras.tree.map_structure(tf.add, sums, to_add)
        arrays = keras.tree.map_structure(
            lambda array, x: array.write(i - first, x), arrays, to_stack
        )
        return i + 1, sums, arrays

    _, sums, arrays = tf.while_loop(
        lambda i, *_: i < end, body, (tf.convert_to_tensor(first), sums, arrays)
    )
    return sums, keras.tree.map_structure(lambda array: array.stack(), arrays)


def _cores() -> int:
    """Returns how many operations TensorFlow runs in parallel."""
    chosen = tf.config.threading.get_inter_op_parallelism_threads()
    if chosen:
        return chosen
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _bytes_of_example(output: tf.Tensor) -> int:
    shape = output.shape
    if not shape.rank or shape[0] is not None:
        return 0
    return math.prod(n or 1 for n in shape[1:]) * output.dtype.size


def _changes(graph: tf.Graph) -> set[str]:
    """Returns the types of operations that change state or draw numbers."""
    definition = graph.as_graph_def()
    nodes = [*definition.node]
    for body in definition.library.function:
        nodes.extend(body.node_def)
    types = {node.op for node in nodes} - _HARMLESS
    # With a fixed seed, random numbers would be the same in every block.
    return {t for t in types if is_stateful(t) or "Random" in t}
