"""A learned standard deviation that is the same everywhere."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.batching.layer_rules.core import broadcast_weight
from keras_meta.batching.layer_rules.registry import rule
from keras_meta.batching.task_scope import TaskScope
from keras_meta.checks import check_positive_number


@keras.saving.register_keras_serializable("keras_meta")
class AppendLogStd(keras.layers.Layer):
    """Appends learned logarithms of standard deviations to means.

    They do not depend on the input. The result is what `Gaussian` takes.

    Args:
        initial_std: Where the standard deviations begin.
        **kwargs: `name`, `dtype`; see `keras.layers.Layer`.

    Raises:
        ValueError: If `initial_std` is not a positive number.

    Example:
    >>> policy = keras.Sequential(
    ...     [keras.Input([2]), keras.layers.Dense(3), AppendLogStd()]
    ... )
    >>> policy.output_shape
    (None, 6)
    """

    def __init__(self, initial_std: float = 1.0, **kwargs: Any):
        super().__init__(**kwargs)
        check_positive_number(initial_std=initial_std)
        self.initial_std = float(initial_std)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates one logarithm for each coordinate."""
        self.log_std = self.add_weight(
            name="log_std",
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(math.log(self.initial_std)),
        )

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns means and logarithms of standard deviations.

        Args:
            inputs: Means, `[..., coordinates]`.
        """
        return _append(inputs, tf.convert_to_tensor(self.log_std))

    def compute_output_shape(
        self, input_shape: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Returns the shape of the outputs."""
        return (*input_shape[:-1], 2 * input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "initial_std": self.initial_std}


@rule(AppendLogStd)
def append_log_std(
    layer: AppendLogStd, scope: TaskScope, inputs: tf.Tensor
) -> tf.Tensor:
    """The layer's formula with each task's own standard deviations."""
    x = task_axis.split(inputs, scope.tasks)
    log_std = broadcast_weight(scope.weight(layer.log_std), x.shape.rank)
    return task_axis.merge(_append(x, log_std))


def _append(means: tf.Tensor, log_std: tf.Tensor) -> tf.Tensor:
    return tf.concat([means, tf.broadcast_to(log_std, tf.shape(means))], -1)
