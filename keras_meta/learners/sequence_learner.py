"""The base of learners that read the support set as a sequence."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_meta.learners.embedding_learner import EmbeddingLearner
from keras_meta.learners.meta_training import StepResult
from keras_meta.learners.tasks.episode import Episode
from keras_meta.learners.tasks.support_orders import SupportOrders
from keras_meta.sequence.output_size import output_size


class SequenceLearner(EmbeddingLearner):
    """Base class of few-shot classifiers that read examples one by one.

    A network with learned weights reads the embedded support set and its
    labels in the order in which they are given. What it then holds is how
    the task is adapted to. Each query is a next item of its own, so it does
    not matter which other queries there are.

    The order matters to such a network, and data sets often sort a support
    set by class, so that the place of an example gives its label away. So
    each step of `fit` reads every support set in a new order, drawn from
    `seed`. Evaluation, `predict` and calls keep the order of the data, and
    their results depend on it.

    Labels of support sets are class numbers, `[tasks, n]`, or shares of the
    classes, `[tasks, n, ways]`. Nothing here has a place for
    `support_sample_weight`, which is refused.

    A subclass implements `read_support` and `answer`.

    Args:
        encoder: See `EmbeddingLearner`. Its output must have a known size.
        ways: Number of classes in a task, on which weights depend.
        seed: Seed of the orders, or `None` to keep the order of the data.
        **kwargs: `batch_statistics`, `name`; see `EmbeddingLearner`.

    Attributes:
        size_of_item: Number of entries of an embedding and a one-hot label.

    Raises:
        ValueError: If an argument is out of range, or the size of embeddings
            is unknown.

    Example:
    An LSTM reads the support set; a query and its state are classified.

    >>> import keras
    >>> import keras_meta
    >>> import tensorflow as tf
    >>>
    >>> @keras.saving.register_keras_serializable("example")
    ... class Reader(keras_meta.SequenceLearner):
    ...     def __init__(self, encoder, ways, **kwargs):
    ...         super().__init__(encoder, ways, **kwargs)
    ...         self.reader = keras.layers.LSTM(8, use_cudnn=False)
    ...         self.head = keras.layers.Dense(ways)
    ...         self.reader.build((None, None, self.size_of_item))
    ...         self.head.build((None, None, 8 + self.size_of_embedding))
    ...
    ...     def read_support(self, x, classes):
    ...         return self.reader(tf.concat([x, classes], axis=-1))
    ...
    ...     def answer(self, adapted, x):
    ...         state = tf.repeat(adapted[:, tf.newaxis], x.shape[1], axis=1)
    ...         return self.head(tf.concat([state, x], axis=-1))
    >>>
    >>> encoder = keras.Sequential([keras.Input([2]), keras.layers.Dense(4)])
    >>> learner = Reader(encoder, ways=3)
    >>> x = {
    ...     "support_x": tf.random.normal([8, 6, 2]),
    ...     "support_y": tf.tile(tf.constant([[0, 1, 2] * 2]), [8, 1]),
    ...     "query_x": tf.random.normal([8, 5, 2]),
    ... }
    >>> learner(x).shape
    TensorShape([8, 5, 3])
    """

    def __init__(
        self, encoder: Any, ways: int, *, seed: int | None = 0, **kwargs: Any
    ):
        super().__init__(encoder, ways, **kwargs)
        self._orders = None if seed is None else SupportOrders(self, seed)
        self.size_of_item = output_size(encoder) + self.ways

    @property
    def seed(self) -> int | None:
        """Seed of the orders, or `None`."""
        return None if self._orders is None else self._orders.seed

    # What subclasses implement.

    def read_support(self, x: tf.Tensor, classes: tf.Tensor) -> Any:
        """Returns what the network holds after a support set.

        Args:
            x: Embedded support sets, `[tasks, n, d]`.
            classes: Shares of the classes in each example,
                `[tasks, n, ways]`.

        Returns:
            What `answer` takes, nested tensors `[tasks, ...]`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `read_support`."
        )

    # What `MetaLearner` is made of.

    def adapt_tasks(
        self, inputs: dict[str, Any], training: bool = False
    ) -> Any:
        """Reads the support sets; see `MetaLearner.adapt_tasks`."""
        if "support_sample_weight" in inputs:
            raise ValueError(
                f"{type(self).__name__} reads examples one by one, and has no "
                "use for their weights. Received: `support_sample_weight`. "
                "Leave it out, and drop examples that must not count."
            )
        support = self.embedded_support(inputs, training)
        return self.read_support(support.x, support.classes)

    def _prepare(self, x: dict[str, Any]) -> dict[str, Any]:
        """Shuffles the support sets of a training step."""
        if self._orders is None:
            return x
        episode = Episode.from_inputs(x)
        order = self._orders.draw(episode)
        return episode.with_support_at(order).as_inputs()

    def _apply(
        self, x: dict[str, Any], y: Any, sample_weight: Any, result: StepResult
    ) -> dict[str, Any]:
        if self._orders is not None:
            drawn = [*result.changes, self._orders.change()]
            result = result._replace(changes=drawn)
        return super()._apply(x, y, sample_weight, result)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "seed": self.seed}
