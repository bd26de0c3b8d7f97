"""Classification by the nearest examples of an encoder that is given."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_at_least
from keras_meta.checks import check_bool
from keras_meta.checks import check_choice
from keras_meta.checks import describe
from keras_meta.kernels.full_product import full_product
from keras_meta.learners.embedded.embeddings import means_of_classes
from keras_meta.learners.embedded.embeddings import unit
from keras_meta.learners.metric_learner import MetricLearner
from keras_meta.learners.metric_learner import weighted
from keras_meta.learners.not_meta_trained import NotMetaTrained

_DISTANCES = ("euclidean", "cosine")


@keras.saving.register_keras_serializable("keras_meta")
class NearestNeighbour(NotMetaTrained, MetricLearner):
    """Classifies a query by the support examples nearest to it.

    A baseline that is not meta-trained. What it says depends on the encoder:

    *   `keras.layers.Flatten()` in a `keras.Sequential` compares pixels;
    *   a network with initial weights shows what its architecture does;
    *   a network that was trained as a classifier of other classes shows
        whether meta-learning adds anything.

    The `neighbours` nearest support examples vote for their classes, each
    with its `support_sample_weight`. The logit of a class is its share of
    the votes. The class that wins has a half more; among equal numbers of
    votes, that of the nearest example wins. With `means`, the logit is the
    similarity to the mean of a class instead: the cosine, or the negative
    squared distance. Either way, the order of the logits is what counts. A
    cross-entropy of them is no likelihood.

    Args:
        encoder: See `MetricLearner`.
        ways: See `MetricLearner`.
        neighbours: How many support examples vote, at most all of them. It
            must be 1 with `means`.
        means: Whether to compare with the means of the classes instead of
            single examples.
        distance: `"euclidean"` or `"cosine"`.
        **kwargs: `batch_statistics`, `name`; see `MetricLearner`.

    Raises:
        ValueError: If an argument is out of range, or a support set has fewer
            examples than `neighbours`.

    Example:
    >>> import keras
    >>> import keras_meta
    >>> import numpy as np
    >>>
    >>> pixels = keras.Sequential(
    ...     [keras.Input([8, 8, 1]), keras.layers.Flatten()]
    ... )
    >>> learner = keras_meta.NearestNeighbour(pixels, ways=2)
    >>> images = np.random.uniform(size=[1, 4, 8, 8, 1])
    >>> x = {
    ...     "support_x": images,
    ...     "support_y": np.array([[0, 0, 1, 1]]),
    ...     "query_x": images[:, 1:3],
    ... }
    >>> np.argmax(learner(x), axis=-1)
    array([[0, 1]])

    References:
        - [Vinyals et al., 2016](https://arxiv.org/abs/1606.04080), table 1,
          pixels and baseline classifier.
        - [Wang et al., 2019](https://arxiv.org/abs/1911.04623), for the means
          of features that were trained for other classes.
    """

    def __init__(
        self,
        encoder: keras.Model,
        ways: int,
        *,
        neighbours: int = 1,
        means: bool = False,
        distance: str = "euclidean",
        **kwargs: Any,
    ):
        super().__init__(encoder, ways, **kwargs)
        check_at_least(1, neighbours=neighbours)
        check_bool(means=means)
        check_choice("distance", distance, _DISTANCES)
        if means and neighbours != 1:
            raise ValueError(
                "`neighbours` are single examples, and with means=True there "
                f"are none. Received: neighbours={describe(neighbours)}. Leave "
                "one of them out."
            )
        self.neighbours = int(neighbours)
        self.means = bool(means)
        self.distance = distance

    def adapt_embedded(
        self, x: tf.Tensor, classes: tf.Tensor, weights: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns what queries are compared with, and the votes.

        Returns:
            Means, `[tasks, ways, d]`, or examples, `[tasks, n, d]`; and what
            each example gives to the classes, `[tasks, n, ways]`.
        """
        classes = weighted(classes, weights)
        return (means_of_classes(x, classes) if self.means else x), classes

    def compare(
        self, adapted: tuple[tf.Tensor, tf.Tensor], x: tf.Tensor
    ) -> tf.Tensor:
        """Returns logits; see `MetricLearner.compare`."""
        points, classes = adapted
        similarities = _SIMILARITIES[self.distance](x, points)
        if self.means:
            return similarities
        # A vote would not show that an example is not a number.
        is_finite = tf.reduce_all(tf.math.is_finite(similarities))
        votes = self._votes(similarities, classes)
        return tf.where(is_finite, votes, tf.constant(math.nan, votes.dtype))

    def _votes(self, similarities: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """Returns shares of votes, `[tasks, q, ways]`.

        Args:
            similarities: Of queries and examples, `[tasks, q, n]`.
            classes: Votes of the examples, `[tasks, n, ways]`.
        """
        examples = similarities.shape[-1]
        if examples is not None and examples < self.neighbours:
            raise ValueError(
                f"neighbours={self.neighbours} needs as many support examples. "
                f"Received: {examples} support examples. Lower `neighbours`."
            )
        lowest = similarities.dtype.min
        # An example of weight 0 is not there.
        is_there = tf.reduce_any(classes > 0, axis=-1)[:, tf.newaxis]
        similarities = tf.where(is_there, similarities, lowest)
        nearest, index = tf.math.top_k(similarities, self.neighbours)
        # [tasks, q, neighbours, ways]
        votes = tf.gather(classes, index, batch_dims=1)
        counts = tf.reduce_sum(votes, axis=2)
        shares = counts / tf.reduce_sum(counts, axis=-1, keepdims=True)
        best = tf.where(votes > 0, nearest[..., tf.newaxis], lowest)
        best = tf.reduce_max(best, axis=2)
        has_most = counts >= tf.reduce_max(counts, axis=-1, keepdims=True)
        winner = tf.argmax(tf.where(has_most, best, lowest), axis=-1)
        return shares + 0.5 * tf.one_hot(winner, self.ways, dtype=shares.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "neighbours": self.neighbours,
            "means": self.means,
            "distance": self.distance,
        }


def _negative_squared_distances(x: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
    """Returns `-|x - p|^2`, `[tasks, q, points]`, as matrix products."""
    # Far from the origin, the expanded square would cancel.
    center = tf.reduce_mean(points, axis=1, keepdims=True)
    x, points = x - center, points - center
    products = full_product(x, points, transpose_b=True)
    lengths = tf.reduce_sum(tf.square(points), axis=-1)[:, tf.newaxis]
    own = tf.reduce_sum(tf.square(x), axis=-1, keepdims=True)
    return 2 * products - lengths - own


def _cosines(x: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
    """Returns cosines, `[tasks, q, points]`."""
    return tf.matmul(unit(x), unit(points), transpose_b=True)


_SIMILARITIES = {
    "euclidean": _negative_squared_distances,
    "cosine": _cosines,
}
