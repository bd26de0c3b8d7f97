"""Classification by a learned comparison of pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from typing import Self

import keras
import tensorflow as tf

from keras_meta.checks import describe
from keras_meta.learners.embedded.pair_losses import contrastive_loss
from keras_meta.learners.embedded.pair_losses import distances
from keras_meta.learners.embedded.pair_losses import triplet_loss
from keras_meta.learners.metric_learner import ABSENT
from keras_meta.learners.metric_learner import MetricLearner
from keras_meta.learners.metric_learner import weighted
from keras_meta.learners.tasks.episode import Episode
from keras_meta.meta_gradients.objective import Adaptation

_CROSSENTROPY = "binary_crossentropy"
_PAIR_LOSSES = {
    _CROSSENTROPY: keras.losses.BinaryCrossentropy(from_logits=True),
    "contrastive": contrastive_loss,
}
_EMBEDDING_LOSSES = {"triplet": triplet_loss}


@keras.saving.register_keras_serializable("keras_meta")
class SiameseNetwork(MetricLearner):
    """Learns whether two examples are of one class.

    Every query of a task forms a pair with every support example. The logit
    that both are of one class is

        bias + sum_j weights[j] |f(a)[j] - f(b)[j]|

    with learned weights and bias. `fit` minimizes the binary cross-entropy of
    these logits. In each task, pairs of one class and pairs of two classes
    have the same total weight, however many there are. The logit of a class
    is the mean over its support examples.

    The compiled loss sees the logits of classes, `[tasks * q, ways]`. It does
    not train: `evaluate` and `evaluate_tasks` report it, and `fit` logs what
    it minimizes, the loss of pairs.

    Other losses compare by the Euclidean distance between embeddings. The
    logit of a class is then the negative mean distance.

    A pair does not see the other classes of its task, so prototypes learn
    more from the same episodes. A Siamese network is for verification, and
    for a baseline.

    Args:
        encoder: See `MetricLearner`.
        ways: See `MetricLearner`.
        pair_loss: `"binary_crossentropy"` as above, or a loss of `(same,
            distance)`, whose `same` is 1 for pairs of one class and 0 for
            others: `"contrastive"`, with margin 1, or a Keras loss such as
            `keras_meta.addons.losses.ContrastiveLoss(margin=2.0)`.
        embedding_loss: Used in place of `pair_loss`, a loss of class numbers
            and the embedded examples of a task, support and query set
            together: `"triplet"`, with semi-hard negatives and margin 1, or
            a Keras loss such as
            `keras_meta.addons.losses.TripletSemiHardLoss()`. It takes no
            weights of examples. Embeddings of length 1 suit it:
            end the encoder with `keras.layers.UnitNormalization()`.
        **kwargs: `batch_statistics`, `name`; see `MetricLearner`.

    Raises:
        ValueError: If a loss is unknown, or `pair_loss` is given as well as
            `embedding_loss`.

    Example:
    >>> import keras
    >>> import keras_meta
    >>> import numpy as np
    >>>
    >>> encoder = keras.Sequential([keras.Input([2]), keras.layers.Dense(4)])
    >>> learner = keras_meta.SiameseNetwork(encoder, ways=3)
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> learner.compile("adam", loss, metrics=["accuracy"])
    >>> x = {
    ...     "support_x": np.random.normal(size=[8, 6, 2]),
    ...     "support_y": np.tile([0, 1, 2, 0, 1, 2], [8, 1]),
    ...     "query_x": np.random.normal(size=[8, 3, 2]),
    ... }
    >>> learner(x).shape
    TensorShape([8, 3, 3])

    References:
        - [Koch et al., 2015](
          https://www.cs.cmu.edu/~rsalakhu/papers/oneshot1.pdf), section 3.
    """

    def __init__(
        self,
        encoder: keras.Model,
        ways: int,
        *,
        pair_loss: str | keras.losses.Loss | Callable = _CROSSENTROPY,
        embedding_loss: str | keras.losses.Loss | Callable | None = None,
        **kwargs: Any,
    ):
        super().__init__(encoder, ways, **kwargs)
        self.pair_loss = pair_loss
        self.embedding_loss = embedding_loss
        is_default = _is_crossentropy(pair_loss)
        if embedding_loss is not None and not is_default:
            raise ValueError(
                "`embedding_loss` takes the place of `pair_loss`. Received: "
                f"pair_loss={describe(pair_loss)} and embedding_loss="
                f"{describe(embedding_loss)}. Leave one of them out."
            )
        self._loss_of_pairs = _as_function("pair_loss", pair_loss, _PAIR_LOSSES)
        self._loss_of_embeddings: Callable | None = None
        if embedding_loss is not None:
            self._loss_of_embeddings = _as_function(
                "embedding_loss", embedding_loss, _EMBEDDING_LOSSES
            )
        self.weighs_gaps = is_default and embedding_loss is None
        if self.weighs_gaps:
            self._add_weights(self.size_of_embedding)

    def _add_weights(self, size: int | None) -> None:
        if size is None:
            raise ValueError(
                "`encoder` must tell the size of its output. Received: the "
                f"encoder '{self.encoder.name}'. Start it with keras.Input."
            )
        self.gap_weights = self.add_weight(
            name="gap_weights",
            shape=(size,),
            # Alike means of one class, from the start.
            initializer=keras.initializers.Constant(-(size**-0.5)),
        )
        self.bias = self.add_weight(name="bias", shape=(), initializer="zeros")

    def score(self, x: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
        """Returns how much embedded examples are alike, for each pair.

        Args:
            x: `[tasks, n, d]`.
            points: `[tasks, m, d]`.

        Returns:
            Logits, or negative distances, `[tasks, n, m]`.
        """
        if not self.weighs_gaps:
            return -distances(x, points)
        gaps = tf.abs(x[:, :, tf.newaxis] - points[:, tf.newaxis])
        weights = tf.cast(tf.convert_to_tensor(self.gap_weights), x.dtype)
        bias = tf.cast(tf.convert_to_tensor(self.bias), x.dtype)
        return tf.reduce_sum(weights * gaps, axis=-1) + bias

    def adapt_embedded(
        self, x: tf.Tensor, classes: tf.Tensor, weights: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns embedded examples and their weighted classes."""
        return x, weighted(classes, weights)

    def compare(
        self, adapted: tuple[tf.Tensor, tf.Tensor], x: tf.Tensor
    ) -> tf.Tensor:
        """Returns logits; see `MetricLearner.compare`."""
        points, classes = adapted
        return _means_over_examples(self.score(x, points), classes)

    def outer_loss(
        self,
        x: dict[str, Any],
        y: Any,
        sample_weight: Any = None,
        adaptation: Adaptation | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the loss of pairs; see `Learner.outer_loss`."""
        self._clear_losses()
        (points, classes), is_there = self.adapt_tasks(x, training=True)
        queries = self.embed(Episode.from_inputs(x).query_x, training=True)
        y = self._as_shares(y, queries.dtype)
        loss = self._loss_of_embeddings
        if loss is None:
            scores = self.score(queries, points)
            losses = self._pair_losses(scores, classes, y, sample_weight)
        else:
            _refuse_weights(x, sample_weight)
            labels = tf.argmax(tf.concat([classes, y], 1), -1, tf.int32)
            every = tf.concat([points, queries], 1)
            losses = _losses_of_embeddings(loss, labels, every)
            scores = self.score(queries, points)
        logits = tf.where(
            is_there[:, tf.newaxis],
            _means_over_examples(scores, classes),
            tf.cast(ABSENT, scores.dtype),
        )
        self._health.report_predictions(logits)
        total = tf.add_n([tf.reduce_mean(losses), *self.losses])
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return total / replicas, logits

    def _pair_losses(
        self,
        scores: tf.Tensor,
        classes: tf.Tensor,
        y: tf.Tensor,
        sample_weight: tf.Tensor | None,
    ) -> tf.Tensor:
        """Returns the balanced losses of pairs, `[tasks]`.

        Args:
            scores: Of queries and support examples, `[tasks, q, n]`.
            classes: Weighted classes of the latter, `[tasks, n, ways]`.
            y: Shares of the classes in the queries, `[tasks, q, ways]`.
            sample_weight: Weights of the queries, `[tasks, q]`, or `None`.
        """
        if sample_weight is not None:
            y = weighted(y, tf.cast(sample_weight, y.dtype))
        same, different = balanced_pairs(y, classes)
        pairs = tf.reshape(scores if self.weighs_gaps else -scores, [-1, 1])

        def of_all(label):
            labels = tf.fill(tf.shape(pairs), tf.cast(label, pairs.dtype))
            values = self._loss_of_pairs(labels, pairs)
            return tf.reshape(values, tf.shape(scores))

        losses = same * of_all(1) + different * of_all(0)
        return tf.reduce_sum(losses, axis=[1, 2])

    def _as_shares(self, y: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Returns the shares of the classes in queries, `[tasks, q, ways]`."""
        y = tf.convert_to_tensor(y)
        if y.shape.rank == 3 and y.shape[-1] == self.ways:
            return tf.cast(y, dtype)
        y = tf.reshape(tf.cast(y, tf.int32), tf.shape(y)[:2])
        return tf.one_hot(y, self.ways, dtype=dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "pair_loss": serialize(self.pair_loss),
            "embedding_loss": serialize(self.embedding_loss),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a learner from `get_config`'s dict."""
        config = dict(config)
        for key in ("pair_loss", "embedding_loss"):
            if isinstance(config.get(key), dict):
                config[key] = keras.saving.deserialize_keras_object(config[key])
        return super().from_config(config)


def balanced_pairs(
    y: tf.Tensor, classes: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns weights of pairs of one class, and of two, `[tasks, q, n]`.

    In a task, either kind adds up to 1/2.

    Args:
        y: Weighted shares of the classes in queries, `[tasks, q, ways]`.
        classes: The same of support examples, `[tasks, n, ways]`.
    """
    same = tf.matmul(y, classes, transpose_b=True)
    every = tf.reduce_sum(y, -1)[..., tf.newaxis]
    every *= tf.reduce_sum(classes, -1)[:, tf.newaxis]

    def halved(weights):
        total = tf.reduce_sum(weights, axis=[1, 2], keepdims=True)
        return tf.math.divide_no_nan(weights, 2 * total)

    return halved(same), halved(every - same)


def _means_over_examples(scores: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Returns the means of scores in each class, `[tasks, q, ways]`."""
    sizes = tf.reduce_sum(classes, axis=1, keepdims=True)
    return tf.matmul(scores, tf.math.divide_no_nan(classes, sizes))


def _losses_of_embeddings(
    loss: Callable, labels: tf.Tensor, x: tf.Tensor
) -> tf.Tensor:
    """Returns the losses of the embeddings of each task, `[tasks]`.

    Args:
        loss: A function of the labels and embeddings of one task.
        labels: Class numbers, `[tasks, n]`.
        x: Embedded examples, `[tasks, n, d]`.
    """
    return tf.map_fn(
        lambda task: tf.reduce_mean(loss(*task)),
        (labels, x),
        fn_output_signature=x.dtype,
    )


def _as_function(name: str, loss: Any, known: dict[str, Any]) -> Callable:
    """Returns a function of labels and predictions that does not reduce."""
    if isinstance(loss, str) and loss in known:
        loss = known[loss]
    if isinstance(loss, keras.losses.Loss):
        return loss.call
    if isinstance(loss, str) or not callable(loss):
        raise ValueError(
            f"`{name}` must be one of {sorted(known)}, a Keras loss or a "
            f"function. Received: {name}={describe(loss)}"
        )
    return loss


def _is_crossentropy(loss: Any) -> bool:
    return isinstance(loss, str) and loss == _CROSSENTROPY


def _refuse_weights(x: dict[str, Any], sample_weight: Any) -> None:
    if sample_weight is not None or "support_sample_weight" in x:
        raise ValueError(
            "`embedding_loss` takes no weights of examples. Received: a batch "
            "with sample_weight or support_sample_weight. Drop them, or use "
            "`pair_loss`."
        )
