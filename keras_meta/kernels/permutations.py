"""Permutations that XLA can see through the gradient of a loop."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def fold_permutations() -> None:
    """Makes inverted permutations constants of the graph being built.

    The derivative of a transposition is another one by the inverted
    permutation, which TensorFlow computes in the graph. If that happens in
    the body of a loop, the loop's own gradient is handed the result step by
    step, and XLA, which must know permutations when it compiles, refuses.
    """
    if tf.executing_eagerly():
        return
    for operation in tf.compat.v1.get_default_graph().get_operations():
        if operation.type == "InvertPermutation":
            permutation = tf.get_static_value(operation.inputs[0])
            if permutation is not None:
                _replace(operation.outputs[0], np.argsort(permutation))


def _replace(tensor: tf.Tensor, value: np.ndarray) -> None:
    constant = tf.constant(value, tensor.dtype)
    for consumer in tensor.consumers():
        for index, operand in enumerate(consumer.inputs):
            if operand is tensor:
                consumer._update_input(index, constant)
