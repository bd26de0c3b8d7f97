"""Sequences of labelled items, for networks that read one after another."""

from __future__ import annotations

import tensorflow as tf

from keras_meta.checks import check_positive
from keras_meta.checks import describe
from keras_meta.episodes.offset_labels import offset_labels
from keras_meta.episodes.pipeline import episode_dataset
from keras_meta.episodes.random_bits import random_words
from keras_meta.episodes.sampling import EpisodeSampler

_ORDER_STREAM = 3


class LabelledSequences:
    """Turns the items of episodes into sequences whose labels come late.

    A sequence holds all items of an episode, support and query items, in
    random order. With an item comes the label of the one before. A network
    that classifies each item can learn a class only from its earlier items.

    `keras_meta.sequence.SequenceClassifier` takes such sequences.

    Args:
        sampler: Draws the episodes; see `Classes.sampler`. A class has
            `shots + queries` items in a sequence.

    Raises:
        TypeError: If `sampler` is not an `EpisodeSampler`.

    Example:
    Five classes with ten items each, as in the paper.

    >>> import numpy as np
    >>> import keras_meta
    >>> classes = keras_meta.episodes.load_arrays(
    ...     np.zeros([60, 20, 20, 1], "uint8"), np.arange(60) // 10)
    >>> sequences = LabelledSequences(
    ...     classes.sampler(ways=5, shots=1, queries=9))
    >>> x, y = sequences.draw(0, tasks=16)
    >>> x["items"].shape, x["previous_y"].shape, y.shape
    (TensorShape([16, 50, 20, 20, 1]), TensorShape([16, 50, 5]), \
TensorShape([16, 50]))

    References:
        - [Santoro et al., 2016](https://arxiv.org/abs/1605.06065), section
          2.1.
    """

    def __init__(self, sampler: EpisodeSampler):
        if not isinstance(sampler, EpisodeSampler):
            raise TypeError(
                "`sampler` must be an EpisodeSampler, as `Classes.sampler` "
                f"returns it. Received: sampler={describe(sampler)}"
            )
        self.sampler = sampler

    def draw(
        self, index: int | tf.Tensor, tasks: int = 1
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        """Draws a batch of consecutive sequences.

        Args:
            index: Index of the first one, at least 0.
            tasks: Number of sequences.

        Returns:
            A pair `(x, y)`. `x["items"]` is `[tasks, n, ...]`,
            `x["previous_y"]` is `[tasks, n, ways]`, one-hot with zeros first,
            and `y` is `[tasks, n]`, int32.

        Raises:
            ValueError: If `index` is negative or `tasks` is not positive.
        """
        x, query_y = self.sampler.draw(index, tasks)
        items = tf.concat([x["support_x"], x["query_x"]], axis=1)
        labels = tf.concat([x["support_y"], query_y], axis=1)
        words = random_words(
            self.sampler.seed,
            _ORDER_STREAM,
            index,
            rows=tasks,
            words=labels.shape[1],
        )
        order = tf.math.top_k(words, labels.shape[1]).indices
        items = tf.gather(items, order, batch_dims=1)
        labels = tf.gather(labels, order, batch_dims=1)
        previous = offset_labels(labels, self.sampler.ways)
        return {"items": items, "previous_y": previous}, labels

    def dataset(
        self, *, tasks: int, start: int = 0, num_batches: int | None = None
    ) -> tf.data.Dataset:
        """Returns the sequences as a data set for `model.fit`.

        Args:
            tasks: Number of sequences in a batch.
            start: Index of the first sequence.
            num_batches: Number of batches, or `None` for an endless data set.

        Returns:
            A `tf.data.Dataset` of the batches that `draw` describes.

        Raises:
            ValueError: If `tasks` or `num_batches` is not positive or
                `start` is negative.
        """
        check_positive(tasks=tasks)
        return episode_dataset(
            lambda index: self.draw(index, tasks),
            tasks=tasks,
            start=start,
            num_batches=num_batches,
        )
