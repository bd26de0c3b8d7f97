"""Accuracy by how often a class has been seen."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_positive


@keras.saving.register_keras_serializable("keras_meta")
class InstanceAccuracy(keras.metrics.Mean):
    """The share of right predictions for the k-th item of each class.

    The published "1-shot" accuracy of memory-augmented networks is that of
    the second instance, the first one after its label has been shown once.
    For the first instance, no network can do better than to guess among the
    classes that have not come yet, which succeeds with probability
    `(1 + 1/2 + ... + 1/ways) / ways`: .457 for 5 classes.

    Args:
        instance: Which item of its class, 1 for the first.
        name: Name of the metric; by default `instance_k`.
        dtype: See `keras.metrics.Metric`.

    Raises:
        ValueError: If `instance` is not positive.

    Example:
    >>> metric = InstanceAccuracy(2)
    >>> metric.update_state([[0, 1, 0, 0]], [[[9, 0], [0, 9], [9, 0], [0, 9]]])
    >>> float(metric.result())
    1.0

    References:
        - [Santoro et al., 2016](https://arxiv.org/abs/1605.06065), table 1.
    """

    def __init__(
        self, instance: int, name: str | None = None, dtype: Any = None
    ):
        check_positive(instance=instance)
        super().__init__(name=name or f"instance_{instance}", dtype=dtype)
        self.instance = int(instance)

    def update_state(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> None:
        """Counts a batch of sequences.

        Args:
            y_true: Class numbers, `[sequences, n]`.
            y_pred: Scores of the classes, `[sequences, n, ways]`.
            sample_weight: Weights of the items, `[sequences, n]`, or `None`.
        """
        y_true = tf.cast(y_true, tf.int32)
        y_pred = tf.argmax(y_pred, axis=-1, output_type=tf.int32)
        same = tf.cast(
            y_true[:, tf.newaxis] == y_true[..., tf.newaxis], "int32"
        )
        # Each row counts the items up to its own.
        numbers = tf.reduce_sum(tf.linalg.band_part(same, -1, 0), axis=-1)
        weights = tf.cast(numbers == self.instance, self.dtype)
        if sample_weight is not None:
            weights *= tf.cast(sample_weight, self.dtype)
        super().update_state(tf.cast(y_true == y_pred, self.dtype), weights)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "instance": self.instance}
