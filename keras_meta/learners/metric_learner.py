"""The base of learners that compare embedded examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from typing import Self

import keras
import tensorflow as tf

from keras_meta.learners.embedding_learner import EmbeddingLearner

# The logit of a class without a support example.
ABSENT = -1e9


class MetricLearner(EmbeddingLearner):
    """Base class of few-shot classifiers that compare embedded examples.

    An encoder embeds support and query sets. What tells the classes apart
    is computed from the support set's embeddings in closed form, so nothing
    adapts by gradient steps. The encoder is learned through the loss of the
    queries. Predictions are logits, `[tasks, q, ways]`.

    Labels of support sets are class numbers, `[tasks, n]`, or shares of the
    classes, `[tasks, n, ways]`, such as one-hot labels. A class without a
    support example gets the logit `-1e9`.

    A subclass implements `adapt_embedded` and `compare`.

    Args:
        encoder: See `EmbeddingLearner`.
        ways: Number of classes in a task. Nothing that is learned depends on
            it, see `with_ways`.
        **kwargs: `batch_statistics`, `name`; see `EmbeddingLearner`.

    Raises:
        ValueError: If `ways` is below 2 or the encoder is not built.

    Example:
    Cosines to the means of the classes.

    >>> import keras
    >>> import keras_meta
    >>> import tensorflow as tf
    >>>
    >>> @keras.saving.register_keras_serializable("example")
    ... class Cosines(keras_meta.MetricLearner):
    ...     def adapt_embedded(self, x, classes, weights):
    ...         shares = classes * weights[..., tf.newaxis]
    ...         return tf.matmul(shares, x, transpose_a=True)
    ...
    ...     def compare(self, adapted, x):
    ...         x = tf.math.l2_normalize(x, axis=-1)
    ...         means = tf.math.l2_normalize(adapted, axis=-1)
    ...         return 10.0 * tf.matmul(x, means, transpose_b=True)
    >>>
    >>> encoder = keras.Sequential([keras.Input([2]), keras.layers.Dense(4)])
    >>> learner = Cosines(encoder, ways=3)
    >>> x = {
    ...     "support_x": tf.random.normal([8, 6, 2]),
    ...     "support_y": tf.tile(tf.constant([[0, 1, 2] * 2]), [8, 1]),
    ...     "query_x": tf.random.normal([8, 5, 2]),
    ... }
    >>> learner.predict(x, verbose=0).shape
    (8, 5, 3)
    """

    def with_ways(self, ways: int) -> Self:
        """Returns a learner for tasks with another number of classes.

        Training with more classes than in tests helps. The encoder is shared;
        other weights are copied. The learner is not compiled.

        Args:
            ways: Number of classes in a task.
        """
        return self._copy(ways=ways)

    def with_encoder(self, encoder: keras.Model) -> Self:
        """Returns a learner with another encoder.

        Weights other than the encoder's are copied. The learner is not
        compiled. Where many tasks are drawn from few examples, embed these
        once and give their embeddings to a learner with an encoder that
        returns its inputs.

        Args:
            encoder: A built model whose outputs have as many entries as those
                of the present one.

        Example:
        ```python
        embeddings = learner.encoder.predict(images)
        as_they_are = keras.Sequential(
            [keras.Input(embeddings.shape[1:]), keras.layers.Identity()]
        )
        head = learner.with_encoder(as_they_are)
        ```
        """
        return self._copy(encoder=encoder)

    def _copy(self, **changes: Any) -> Self:
        """Returns a learner with other arguments of the constructor."""
        config = {**self.get_config(), "encoder": self.encoder, **changes}
        other = type(self)(**config)
        for variable, value in zip(
            _others(other.weights, other.encoder.weights),
            _others(self.weights, self.encoder.weights),
            strict=True,
        ):
            variable.assign(value)
        return other

    # What subclasses implement.

    def adapt_embedded(
        self, x: tf.Tensor, classes: tf.Tensor, weights: tf.Tensor
    ) -> Any:
        """Returns what tells the classes of each task apart.

        Args:
            x: Embedded support sets, `[tasks, n, d]`.
            classes: Shares of the classes in each example,
                `[tasks, n, ways]`.
            weights: Weights of the examples, `[tasks, n]`.

        Returns:
            What `compare` takes, nested tensors `[tasks, ...]`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `adapt_embedded`."
        )

    def compare(self, adapted: Any, x: tf.Tensor) -> tf.Tensor:
        """Returns logits, `[tasks, q, ways]`.

        Args:
            adapted: What `adapt_embedded` returned.
            x: Embedded query sets, `[tasks, q, d]`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `compare`."
        )

    # What `MetaLearner` is made of.

    def adapt_tasks(
        self, inputs: dict[str, Any], training: bool = False
    ) -> tuple[Any, tf.Tensor]:
        """Embeds the support sets; see `MetaLearner.adapt_tasks`.

        Returns:
            What `adapt_embedded` returned, and whether each class has a
            support example, `[tasks, ways]`.
        """
        x, classes, weights = self.embedded_support(inputs, training)
        is_there = tf.reduce_any(weighted(classes, weights) > 0, axis=1)
        return self.adapt_embedded(x, classes, weights), is_there

    def answer(self, adapted: tuple[Any, tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        """Returns the logits; see `EmbeddingLearner.answer`."""
        compared, is_there = adapted
        logits = self.compare(compared, x)
        absent = tf.cast(ABSENT, logits.dtype)
        return tf.where(is_there[:, tf.newaxis], logits, absent)


def weighted(classes: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Returns shares of classes times the weights of the examples.

    Args:
        classes: `[tasks, n, ways]`.
        weights: `[tasks, n]`.
    """
    return classes * weights[..., tf.newaxis]


def _others(
    weights: Sequence[keras.Variable], known: Sequence[keras.Variable]
) -> list[keras.Variable]:
    """Returns weights without those that are known."""
    ids = set(map(id, known))
    return [v for v in weights if id(v) not in ids]
