"""Constant permutations, for XLA and the gradients of loops."""

from __future__ import annotations

import numpy as np
import tensorflow as tf


def fold_permutations() -> None:
    """Replaces inverted permutations in the current graph with constants.

    The derivative of a transposition is a transposition by the inverted
    permutation, which TensorFlow computes in the graph. In the body of a loop,
    the loop's gradient receives that result step by step. XLA then refuses,
    because it must know permutations at compile time.
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
