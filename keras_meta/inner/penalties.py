"""What regularizers of weights add to the losses of tasks."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf


def penalties(
    variables: Sequence[keras.Variable],
    params: Sequence[tf.Tensor],
    dtype: tf.DType,
) -> tf.Tensor:
    """Returns the penalty of each task's weights, `[tasks]`.

    Args:
        variables: The weights, which know their regularizers.
        params: Their values, `[tasks, *shape]` each.
        dtype: Type of the result.
    """
    total = tf.zeros([params[0].shape[0]], dtype)
    for variable, values in zip(variables, params, strict=True):
        if variable.regularizer is not None:
            found = map(variable.regularizer, tf.unstack(values))
            total += tf.cast(tf.stack([*found]), dtype)
    return total


def penalty(variables: Sequence[keras.Variable]) -> tf.Tensor:
    """Returns the penalty of the values that weights have now, a scalar."""
    dtype = keras.config.floatx()
    found = [
        tf.cast(v.regularizer(v), dtype)
        for v in variables
        if v.regularizer is not None
    ]
    return sum(found, start=tf.zeros([], dtype))
