"""The negative log-likelihood of what samples predict together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.batching.annotations import samples_of
from keras_meta.inner.inner_loss import InnerLoss


@keras.saving.register_keras_serializable("keras_meta")
class PredictiveNLL(keras.metrics.Mean):
    """Negative log-likelihood of an equal mixture of all samples.

    With the negative log-likelihoods `l` of a query under each of `S`
    samples, it is the mean over queries of

        -log(sum over samples of exp(-l) / S)

    in nats. It is at most the mean of the samples' losses. For learners
    without samples it is the loss.

    Args:
        loss: A negative log-likelihood, whatever `compile` takes as a loss,
            that compares each example alone.
        name: See `keras.metrics.Metric`.
        **kwargs: `dtype`; see `keras.metrics.Metric`.

    Raises:
        ValueError: If `loss` is not a loss.

    Example:
    >>> import keras_meta
    >>> metric = keras_meta.PredictiveNLL(keras_meta.GaussianNLL(0.5))
    >>> metric.update_state([[0.0]], [[1.0]])
    >>> round(float(metric.result()), 3)
    2.226
    """

    def __init__(
        self,
        loss: str | keras.losses.Loss | Callable,
        name: str = "predictive_nll",
        **kwargs: Any,
    ):
        super().__init__(name=name, **kwargs)
        self.loss = InnerLoss(loss, "y_true").loss

    def update_state(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> None:
        """Adds queries.

        Args:
            y_true: Labels, `[n, ...]`.
            y_pred: Predictions, `[n, ...]`, that remember their samples.
            sample_weight: Weights of the queries, `[n]`.
        """
        call = getattr(self.loss, "call", self.loss)
        samples = samples_of(tf.convert_to_tensor(y_pred))
        count = tf.shape(samples)[1]
        labels = tf.repeat(tf.convert_to_tensor(y_true), count, axis=0)
        losses = call(labels, task_axis.merge(samples))
        losses = tf.reshape(losses, [-1, count])
        mixed = -tf.reduce_logsumexp(-losses, axis=1)
        mixed += tf.math.log(tf.cast(count, losses.dtype))
        super().update_state(mixed, sample_weight)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        serialize = keras.losses.serialize
        return {**super().get_config(), "loss": serialize(self.loss)}
