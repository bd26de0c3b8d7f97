"""Refuses operations whose second derivative TensorFlow gets wrong."""

from __future__ import annotations

import contextlib
import re

import tensorflow as tf


@contextlib.contextmanager
def refuse_wrong_derivatives(active: bool, xla: bool):
    """Checks the operations that a block of code adds to a graph.

    Two are known: `tf.nn.moments` (also as `keras.ops.moments`) hides its
    mean from differentiation, so its second derivative is wrong everywhere;
    max pooling's second derivative is wrong under XLA. Keras's own layers are
    computed by rules that avoid both. This finds a user's direct calls.

    Args:
        active: Whether a second derivative will be taken.
        xla: Whether the block will be compiled by XLA.

    Raises:
        ValueError: If such an operation was added.
    """
    if not active or tf.executing_eagerly():
        yield
        return
    graph = tf.compat.v1.get_default_graph()
    before = len(graph.get_operations())
    yield
    for operation in graph.get_operations()[before:]:
        if _hides_mean(operation):
            raise ValueError(_MOMENTS.format(operation.name))
        if xla and operation.type in ("MaxPool", "MaxPoolV2", "MaxPool3D"):
            raise ValueError(_MAX_POOL.format(operation.name))


def _hides_mean(operation) -> bool:
    in_moments = re.search(r"(^|/)moments(_\d+)?/", operation.name)
    return operation.type == "StopGradient" and in_moments is not None


_MOMENTS = (
    "The model calls tf.nn.moments or keras.ops.moments directly ({}). Its "
    "second derivative is wrong in TensorFlow, so the meta-gradient would be "
    "wrong too. Compute `variance = ops.mean(ops.square(x - mean))` instead, "
    "use a Keras normalization layer, or pass first_order=True."
)
_MAX_POOL = (
    "The model calls a max-pooling operation directly ({}). Its second "
    "derivative is wrong under XLA, so the meta-gradient would be wrong. Use "
    "a keras.layers.MaxPooling layer, compile(jit_compile=False), or "
    "first_order=True."
)
