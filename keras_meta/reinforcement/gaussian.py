"""Normally distributed actions."""

from __future__ import annotations

import dataclasses
import math

import keras
import tensorflow as tf

from keras_meta.reinforcement.distribution import Distribution
from keras_meta.seeds import ALGORITHM


@keras.saving.register_keras_serializable("keras_meta")
@dataclasses.dataclass(frozen=True)
class Gaussian(Distribution):
    """Actions whose coordinates are normal and independent.

    The policy's outputs are the means, and after them as many logarithms of
    standard deviations, `[..., 2 * coordinates]`. `AppendLogStd` makes such
    outputs of means.

    Example:
    >>> import tensorflow as tf
    >>> outputs = tf.constant([[0.0, 1.0, 0.0, 0.0]])
    >>> Gaussian().mode(outputs).numpy()
    array([[0., 1.]], dtype=float32)
    """

    def sample(self, outputs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws actions, `[..., coordinates]`; see `Distribution.sample`."""
        mean, log_std = _mean_and_log_std(outputs)
        noise = tf.random.stateless_normal(
            tf.shape(mean), seed, dtype=mean.dtype, alg=ALGORITHM
        )
        return mean + tf.exp(log_std) * noise

    def log_prob(self, outputs: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
        """Returns logarithms of densities; see `Distribution.log_prob`."""
        mean, log_std = _mean_and_log_std(outputs)
        gaps = (actions - mean) * tf.exp(-log_std)
        logs = -tf.square(gaps) / 2 - log_std - math.log(2 * math.pi) / 2
        return tf.reduce_sum(logs, axis=-1)

    def mode(self, outputs: tf.Tensor) -> tf.Tensor:
        """Returns the means; see `Distribution.mode`."""
        return _mean_and_log_std(outputs)[0]


def _mean_and_log_std(outputs: tf.Tensor) -> list[tf.Tensor]:
    size = outputs.shape[-1]
    if size is None or size % 2:
        raise ValueError(
            "A policy of Gaussian actions returns a mean and the logarithm of "
            "a standard deviation for each coordinate, an even number. "
            f"Received: outputs of shape {outputs.shape}. "
            "keras_meta.reinforcement.AppendLogStd() as the last layer appends "
            "the logarithms."
        )
    return tf.split(outputs, 2, axis=-1)
