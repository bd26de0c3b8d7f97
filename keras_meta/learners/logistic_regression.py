"""Logistic regression on the features of an encoder that is given."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_bool
from keras_meta.checks import check_positive_number
from keras_meta.learners.embedded.embeddings import unit
from keras_meta.learners.embedded.logistic_fit import LogisticProblem
from keras_meta.learners.embedded.logistic_fit import fit_logistic
from keras_meta.learners.metric_learner import MetricLearner
from keras_meta.learners.metric_learner import weighted
from keras_meta.learners.not_meta_trained import NotMetaTrained
from keras_meta.learners.ridge_head import with_ones


@keras.saving.register_keras_serializable("keras_meta")
class LogisticRegression(NotMetaTrained, MetricLearner):
    """Fits a logistic regression to the features of each support set.

    The strongest of the simple baselines: train the encoder as an ordinary
    classifier of the training classes, and fit a linear classifier to the new
    ones. Where a meta-learner is not better, meta-learning was not worth it.

    With features `x` of length 1, it minimizes

        sum_i -log softmax(W x_i + b)[y_i] + strength / 2 * |W|^2

    for each task, to the optimum. The offsets `b` are not penalized. The
    optimum is unique up to a constant in `b`. `support_sample_weight` weighs
    the terms of the sum. The regressions of all tasks are solved together, by
    Newton's method, whose systems conjugate gradients solve.

    Args:
        encoder: See `MetricLearner`.
        ways: See `MetricLearner`.
        strength: Strength of the penalty: `1 / C` in scikit-learn, whose
            optimum it is.
        normalize: Whether to divide features by their length. Without, the
            best strength depends on the scale of the features.
        **kwargs: `batch_statistics`, `name`; see `MetricLearner`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
    >>> import keras
    >>> import keras_meta
    >>> import numpy as np
    >>>
    >>> encoder = keras.Sequential([keras.Input([2]), keras.layers.Dense(4)])
    >>> learner = keras_meta.LogisticRegression(encoder, ways=3)
    >>> x = {
    ...     "support_x": np.random.normal(size=[8, 6, 2]),
    ...     "support_y": np.tile([0, 1, 2, 0, 1, 2], [8, 1]),
    ...     "query_x": np.random.normal(size=[8, 3, 2]),
    ... }
    >>> learner(x).shape
    TensorShape([8, 3, 3])

    References:
        - [Tian et al., 2020](https://arxiv.org/abs/2003.11539), section 3.
    """

    def __init__(
        self,
        encoder: keras.Model,
        ways: int,
        *,
        strength: float = 1.0,
        normalize: bool = True,
        **kwargs: Any,
    ):
        super().__init__(encoder, ways, **kwargs)
        check_positive_number(strength=strength)
        check_bool(normalize=normalize)
        self.strength = float(strength)
        self.normalize = bool(normalize)

    def adapt_embedded(
        self, x: tf.Tensor, classes: tf.Tensor, weights: tf.Tensor
    ) -> tf.Tensor:
        """Returns the coefficients, `[tasks, d + 1, ways]`, offsets last."""
        # Half precision has too few digits for an optimum.
        dtype = x.dtype if x.dtype == tf.float64 else tf.float32
        x = self._features(tf.cast(x, dtype))
        y = tf.cast(weighted(classes, weights), dtype)
        penalty = tf.fill([x.shape[-1] - 1], tf.cast(self.strength, dtype))
        penalty = tf.pad(penalty, [[0, 1]])
        return fit_logistic(LogisticProblem(x, y, penalty))

    def compare(self, adapted: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Returns logits; see `MetricLearner.compare`."""
        logits = tf.matmul(self._features(tf.cast(x, adapted.dtype)), adapted)
        return tf.cast(logits, x.dtype)

    def _features(self, x: tf.Tensor) -> tf.Tensor:
        return with_ones(unit(x) if self.normalize else x)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "strength": self.strength,
            "normalize": self.normalize,
        }
