"""Single examples of many classes, to train a classifier on."""

import numpy as np
import tensorflow as tf

from keras_meta.checks import check_choice
from keras_meta.checks import check_int64
from keras_meta.checks import check_positive
from keras_meta.episodes.arguments import check_index
from keras_meta.episodes.pipeline import episode_dataset
from keras_meta.episodes.pipeline import look_up
from keras_meta.episodes.random_bits import integers_below
from keras_meta.episodes.random_bits import random_words

# Lower streams belong to episodes and to changes of their images.
_ORDER_STREAM = 48
_VERSION_STREAM = 49


class ExampleSampler:
    """Draws examples with their class numbers, as a function of their index.

    Examples `0, ..., n - 1` of the stream are all `n` items in random order,
    the next `n` are all of them in another order, and so on. An example
    depends only on the seed and its index.

    Args:
        items: Items of all classes, `[items, ...]`, sorted by class.
        counts: How many items each class has, `[classes]`.
        seed: Seed of the order.
        dtype: See `keras_meta.episodes.Classes.examples`.
        versions: Number of versions of the items, concatenated in `items`.
            Each example is one of them, drawn at random.
    """

    def __init__(
        self,
        items: np.ndarray,
        counts: np.ndarray,
        *,
        seed: int = 0,
        dtype: str = "float32",
        versions: int = 1,
    ):
        check_int64(seed=seed)
        check_choice("dtype", dtype, tuple({"float32": 0, items.dtype.name: 0}))
        self._seed = int(seed)
        self._dtype = dtype
        self._versions = versions
        self._size = len(items) // versions
        # `tf.data` gathers from them on the host.
        with tf.device("CPU"):
            self._items = tf.constant(items)
            self._labels = tf.repeat(tf.range(len(counts)), counts)

    def draw(
        self, index: int | tf.Tensor, number: int
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws consecutive examples.

        Args:
            index: Index of the first one, at least 0.
            number: How many.

        Returns:
            The items, `[number, ...]`, and their classes, int32 `[number]`.
        """
        check_index(index)
        check_positive(number=number)
        places = tf.cast(index, tf.int64) + tf.range(number, dtype=tf.int64)
        rounds, places = places // self._size, places % self._size
        seeds = tf.stack(
            [
                tf.fill([number], tf.constant(self._seed, tf.int64)),
                tf.fill([number], tf.constant(_ORDER_STREAM, tf.int64)),
                rounds,
            ],
            axis=1,
        )
        positions = tf.raw_ops.RandomIndexShuffle(
            index=places, seed=seeds, max_index=self._size - 1, rounds=4
        )
        labels = tf.gather(self._labels, positions)
        if self._versions > 1:
            words = random_words(
                self._seed, _VERSION_STREAM, index, rows=number, words=1
            )
            version = integers_below(words[:, 0], self._versions)
            positions += tf.cast(version, tf.int64) * self._size
        return look_up(self._items, positions, self._dtype), labels

    def dataset(
        self, batch_size: int, start: int = 0, num_batches: int | None = None
    ) -> tf.data.Dataset:
        """Returns the examples in batches.

        Args:
            batch_size: Number of examples in a batch.
            start: Index of the first example.
            num_batches: Number of batches, or None for an endless data set.
        """
        check_positive(batch_size=batch_size)
        return episode_dataset(
            lambda index: self.draw(index, batch_size),
            tasks=batch_size,
            start=start,
            num_batches=num_batches,
        )
