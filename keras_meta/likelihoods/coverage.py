"""How many labels lie where samples say they are."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching.annotations import samples_of
from keras_meta.checks import check_number_at_least
from keras_meta.checks import check_positive_number


@keras.saving.register_keras_serializable("keras_meta")
class Coverage(keras.metrics.Mean):
    """Share of labels within some standard deviations of the prediction.

    The prediction is the mean of the samples. Its variance is theirs plus
    that of the noise, `scale^2`. Of labels that the samples predict as well
    as a Gaussian can, .954 lie within 2 standard deviations. Fewer mean
    that the learner is too sure, more that it is not sure enough.

    Args:
        scale: Standard deviation of the noise of labels, at least 0.
        deviations: How many standard deviations to allow, positive.
        name: See `keras.metrics.Metric`.
        **kwargs: `dtype`; see `keras.metrics.Metric`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
    >>> import keras_meta
    >>> metric = keras_meta.Coverage(scale=0.5)
    >>> metric.update_state([[0.0], [0.0]], [[0.9], [1.1]])
    >>> float(metric.result())
    0.5
    """

    def __init__(
        self,
        scale: float,
        deviations: float = 2.0,
        name: str = "coverage",
        **kwargs: Any,
    ):
        check_number_at_least(0, scale=scale)
        check_positive_number(deviations=deviations)
        super().__init__(name=name, **kwargs)
        self.scale = float(scale)
        self.deviations = float(deviations)

    def update_state(
        self, y_true: Any, y_pred: Any, sample_weight: Any = None
    ) -> None:
        """Adds queries.

        Args:
            y_true: Labels, `[n, outputs]`.
            y_pred: Predictions, `[n, outputs]`, that remember their samples.
            sample_weight: Weights of the queries, `[n]`.
        """
        samples = samples_of(tf.convert_to_tensor(y_pred))
        mean = tf.reduce_mean(samples, axis=1)
        variance = tf.math.reduce_variance(samples, axis=1) + self.scale**2
        error = tf.cast(y_true, mean.dtype) - mean
        is_within = tf.abs(error) <= self.deviations * tf.sqrt(variance)
        share = tf.reduce_mean(tf.cast(is_within, mean.dtype), axis=-1)
        super().update_state(share, sample_weight)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "scale": self.scale,
            "deviations": self.deviations,
        }
