"""What an `OptimizerLearner` logs."""

from __future__ import annotations

import math
from typing import NamedTuple

import keras
import tensorflow as tf


class Outcome(NamedTuple):
    """What a batch adds to the metrics.

    Attributes:
        loss: The mean loss.
        final_loss: The loss after the last step.
        is_ok: Whether nothing diverged.
        loss_counts: How much `loss` counts; `None` for 1.
        final_counts: How much `final_loss` counts; `None` for 1.
    """

    loss: tf.Tensor
    final_loss: tf.Tensor
    is_ok: tf.Tensor
    loss_counts: tf.Tensor | None = None
    final_counts: tf.Tensor | None = None


class MeanOfSome(keras.metrics.Mean):
    """A mean that is infinite, the worst loss, if nothing counts."""

    def result(self) -> tf.Tensor:
        """Returns the mean, or infinity."""
        return tf.where(self.count > 0, super().result(), math.inf)
