"""Classes as means of their embedded examples."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_meta.learners.embedded.embeddings import means_of_classes
from keras_meta.learners.metric_learner import MetricLearner
from keras_meta.learners.metric_learner import weighted


@keras.saving.register_keras_serializable("keras_meta")
class PrototypicalNetwork(MetricLearner):
    """Classifies a query by its distances to the means of the classes.

    The prototype `c_k` of a class is the mean of its embedded support
    examples, weighted by `support_sample_weight` if that is given. The logit
    of the class is `-|f(x) - c_k|^2`. That is a linear classifier on the
    embedding, so training shapes the encoder alone.

    It is the first learner to try for classification: fast, without second
    derivatives, and hard to beat. Training with more ways than in tests helps
    ([Snell et al., 2017](https://arxiv.org/abs/1703.05175), section 3.1).
    It does not fit regression, nor classes that are not one cluster each.

    Args:
        encoder: See `MetricLearner`.
        ways: See `MetricLearner`.
        **kwargs: `batch_statistics`, `name`; see `MetricLearner`.

    Example:
    >>> import keras
    >>> import keras_meta
    >>> import numpy as np
    >>>
    >>> encoder = keras.Sequential([keras.Input([2]), keras.layers.Dense(4)])
    >>> learner = keras_meta.PrototypicalNetwork(encoder, ways=3)
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> learner.compile("adam", loss, metrics=["accuracy"])
    >>> x = {
    ...     "support_x": np.random.normal(size=[8, 6, 2]),
    ...     "support_y": np.tile([0, 1, 2, 0, 1, 2], [8, 1]),
    ...     "query_x": np.random.normal(size=[8, 3, 2]),
    ... }
    >>> y = np.tile([0, 1, 2], [8, 1])
    >>> history = learner.fit(x, y, batch_size=4, verbose=0)
    >>> learner.predict(x, verbose=0).shape
    (8, 3, 3)

    References:
        - [Snell et al., 2017](https://arxiv.org/abs/1703.05175), equations 1
          and 2.
    """

    def adapt_embedded(
        self, x: tf.Tensor, classes: tf.Tensor, weights: tf.Tensor
    ) -> tf.Tensor:
        """Returns the prototypes, `[tasks, ways, d]`."""
        return means_of_classes(x, weighted(classes, weights))

    def compare(self, adapted: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Returns negative squared distances; see `MetricLearner.compare`."""
        # The expanded square would cancel where a query is near.
        gaps = x[:, :, tf.newaxis] - adapted[:, tf.newaxis]
        return -tf.reduce_sum(tf.square(gaps), axis=-1)
