"""Recomputation, which saves memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


def recompute(function: Callable, *arguments: Any) -> Any:
    """Calls a function, and calls it again when its gradient is taken.

    The intermediate results of a network's step are several times as large as
    its state. An unroll that keeps them all mostly moves memory.

    Args:
        function: A pure function of nested tensors. It captures nothing that
            has a gradient.
        *arguments: Its arguments, floating-point tensors.

    Returns:
        The result of the function, with derivatives of any order.
    """
    structure = []

    def compute(flat):
        return function(*keras.tree.pack_sequence_as(arguments, flat))

    @tf.custom_gradient
    def call(*flat):
        outputs = compute(flat)
        structure[:] = [outputs]

        def gradient(*upstream):
            with tf.GradientTape() as tape:
                tape.watch(flat)
                again = keras.tree.flatten(compute(flat))
            return tape.gradient(
                again,
                flat,
                output_gradients=upstream,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )

        return keras.tree.flatten(outputs), gradient

    outputs = call(*keras.tree.flatten(arguments))
    return keras.tree.pack_sequence_as(structure[0], outputs)
