"""Few-shot classification episodes drawn from classes held in memory."""

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_meta.checks import check_bool
from keras_meta.checks import check_choice
from keras_meta.checks import check_int64
from keras_meta.checks import check_positive
from keras_meta.checks import describe
from keras_meta.episodes.arguments import as_integers
from keras_meta.episodes.arguments import as_items
from keras_meta.episodes.arguments import check_index
from keras_meta.episodes.pipeline import episode_dataset
from keras_meta.episodes.pipeline import look_up
from keras_meta.episodes.random_bits import integers_below
from keras_meta.episodes.random_bits import random_words

Batch = tuple[dict[str, tf.Tensor], tf.Tensor]

_EPISODE_STREAM = 0


def draw_distinct(
    words: tf.Tensor, order_words: tf.Tensor, count: int | tf.Tensor
) -> tf.Tensor:
    """Draws different integers below a bound, in random order.

    The cost does not depend on the bound: Floyd's method compares each draw
    only with the earlier ones.

    Args:
        words: Random uint32 words `[rows, draws]`.
        order_words: More random uint32 words, `[rows, draws]`, for the order.
        count: int32 bounds, a scalar or `[rows]`, at least `draws`.

    Returns:
        An int32 tensor `[rows, draws]`. Each row holds different integers
        from `0` to `count - 1`. All arrangements are equally likely.

    References:
        Bentley and Floyd, Programming pearls: a sample of brilliance, 1987.

    Example:
    >>> words = random_words(seed=0, stream=0, index=0, rows=1, words=6)
    >>> drawn = draw_distinct(words[:, :3], words[:, 3:], 3)
    >>> sorted(drawn[0].numpy().tolist())
    [0, 1, 2]
    """
    draws = words.shape[1]
    largest = tf.broadcast_to(count - draws, [words.shape[0]])
    largest = largest[:, tf.newaxis] + tf.range(draws)
    candidates = integers_below(words, largest + 1)
    candidates = tf.split(tf.transpose(candidates), draws)
    spares = tf.split(tf.transpose(largest), draws)
    drawn = candidates[0]
    for candidate, spare in zip(candidates[1:], spares[1:], strict=True):
        taken = tf.reduce_any(drawn == candidate, axis=0, keepdims=True)
        drawn = tf.concat([drawn, tf.where(taken, spare, candidate)], axis=0)
    order = tf.math.top_k(order_words, draws).indices
    return tf.gather(tf.transpose(drawn), order, batch_dims=1)


class EpisodeSampler:
    """Draws few-shot classification episodes as a function of their index.

    `keras_meta.episodes.Classes.sampler` returns one. An episode depends only
    on the seed and its index, not on the episodes drawn with it or on any
    global state.

    Args:
        items: Items of all classes, `[items, ...]`, sorted by class.
        starts: Where each class starts in `items`, `[classes]`.
        counts: How many items each class has, `[classes]`.
        ways: Number of classes in an episode.
        shots: Number of support items of each class.
        queries: Number of query items of each class.
        seed: Seed of the episodes.
        dtype: `"float32"`, which scales uint8 items to the range 0 to 1, or
            the items' own type, which leaves them unchanged.
        versions: Number of versions of the items, concatenated in `items`.
            Each class of an episode uses one of them, drawn at random.
        shuffle: Whether to shuffle the items of a support or query set. By
            default, they are sorted by class.
        augment: Optional function `(seed, index, x) -> x` that changes the
            drawn batch, such as a `keras_meta.episodes.Augment`.

    Raises:
        ValueError: If a size is not positive, if `dtype` is neither
            `"float32"` nor the items' own type, if there are fewer classes
            than `ways`, if a class has fewer items than `shots + queries`, or
            if items are not finite.
    """

    def __init__(
        self,
        items: np.ndarray,
        starts: np.ndarray,
        counts: np.ndarray,
        *,
        ways: int,
        shots: int,
        queries: int,
        seed: int = 0,
        dtype: str = "float32",
        versions: int = 1,
        shuffle: bool = False,
        augment: Callable | None = None,
    ):
        check_positive(
            ways=ways, shots=shots, queries=queries, versions=versions
        )
        check_int64(seed=seed)
        check_bool(shuffle=shuffle)
        _check_function(augment)
        items = as_items("items", items)
        check_choice("dtype", dtype, tuple({"float32": 0, items.dtype.name: 0}))
        starts = as_integers("starts", starts)
        counts = as_integers("counts", counts)
        _check_table(len(items), versions, starts, counts)
        _check_enough(ways, shots + queries, counts)
        self.ways = int(ways)
        self.shots = int(shots)
        self.queries = int(queries)
        self.seed = int(seed)
        self._dtype = dtype
        self._versions = int(versions)
        self._shuffle = shuffle
        self._augment = augment
        # `tf.data` gathers from them on the host.
        with tf.device("CPU"):
            self._items = tf.constant(items)
            self._starts = tf.constant(starts, tf.int32)
            self._counts = tf.constant(counts, tf.int32)

    def draw(self, index: int | tf.Tensor, tasks: int = 1) -> Batch:
        """Draws a batch of consecutive episodes.

        Works eagerly and inside a `tf.function`.

        Args:
            index: Index of the first episode, at least 0.
            tasks: Number of episodes.

        Returns:
            A pair `(x, y)`. `x["support_x"]` is
            `[tasks, ways * shots, ...]`, `x["support_y"]` is
            `[tasks, ways * shots]`, `x["query_x"]` is
            `[tasks, ways * queries, ...]` and `y` is
            `[tasks, ways * queries]`. Labels are int32 from 0 to `ways - 1`.

        Raises:
            ValueError: If `index` is negative, `tasks` is not positive, or
                `augment` does not return inputs.
        """
        check_index(index)
        check_positive(tasks=tasks)
        _, items, words = self._choose(index, tasks)
        support, support_y = self._arrange(
            items[..., : self.shots], words[:, : self.ways * self.shots]
        )
        query, query_y = self._arrange(
            items[..., self.shots :], words[:, self.ways * self.shots :]
        )
        x = {
            "support_x": self._look_up(support),
            "support_y": support_y,
            "query_x": self._look_up(query),
        }
        if self._augment is not None:
            x = self._augmented(index, x)
        return x, query_y

    def choose(
        self, index: int | tf.Tensor, tasks: int = 1
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns which classes and items the episodes consist of.

        Args:
            index: Index of the first episode, at least 0.
            tasks: Number of episodes.

        Returns:
            Two int32 tensors. `[tasks, ways]`: position of the class behind
            each label. `[tasks, ways, shots + queries]`: positions of the
            items in the sampler's table, support items first.

        Raises:
            ValueError: If `index` is negative or `tasks` is not positive.
        """
        check_index(index)
        check_positive(tasks=tasks)
        classes, items, _ = self._choose(index, tasks)
        return classes, items

    def dataset(
        self,
        *,
        tasks: int,
        start: int = 0,
        num_batches: int | None = None,
    ) -> tf.data.Dataset:
        """Returns the episodes as a data set for `model.fit`.

        Args:
            tasks: Number of episodes in a batch.
            start: Index of the first episode.
            num_batches: Number of batches, or None for an endless data set.

        Returns:
            A `tf.data.Dataset` of the batches that `draw` describes.

        Raises:
            ValueError: If `tasks` or `num_batches` is not positive or
                `start` is negative.
        """
        return episode_dataset(
            lambda index: self.draw(index, tasks),
            tasks=tasks,
            start=start,
            num_batches=num_batches,
        )

    def _choose(self, index, tasks):
        per_class = self.shots + self.queries
        drawn = self.ways * per_class
        (
            class_words,
            class_order,
            version_words,
            item_words,
            item_order,
            rest,
        ) = tf.split(
            random_words(
                self.seed,
                _EPISODE_STREAM,
                index,
                rows=tasks,
                words=3 * self.ways + 3 * drawn,
            ),
            [self.ways] * 3 + [drawn] * 3,
            axis=1,
        )
        classes = draw_distinct(class_words, class_order, self._counts.shape[0])
        flat = tf.reshape(classes, [tasks * self.ways])
        items = draw_distinct(
            tf.reshape(item_words, [tasks * self.ways, per_class]),
            tf.reshape(item_order, [tasks * self.ways, per_class]),
            tf.gather(self._counts, flat),
        )
        starts = tf.gather(self._starts, flat)
        if self._versions > 1:
            version = integers_below(version_words, self._versions)
            size = self._items.shape[0] // self._versions
            starts += tf.reshape(version, [-1]) * size
        items += starts[:, tf.newaxis]
        return classes, tf.reshape(items, [tasks, self.ways, per_class]), rest

    def _arrange(self, items, words):
        tasks, ways, each = items.shape
        items = tf.reshape(items, [tasks, ways * each])
        labels = tf.repeat(tf.range(ways), each)
        labels = tf.broadcast_to(labels, [tasks, ways * each])
        if not self._shuffle:
            return items, labels
        order = tf.math.top_k(words, ways * each).indices
        return (
            tf.gather(items, order, batch_dims=1),
            tf.gather(labels, order, batch_dims=1),
        )

    def _augmented(self, index, x):
        try:
            changed = self._augment(self.seed, index, x)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`augment` cannot be called: {error}") from error
        return _checked_inputs(changed, set(x))

    def _look_up(self, positions):
        return look_up(self._items, positions, self._dtype)


def _check_function(augment: Any) -> None:
    if augment is not None and not callable(augment):
        raise ValueError(
            "`augment` must be a function (seed, index, x) -> x, such as a "
            f"keras_meta.episodes.Augment. Received: {describe(augment)}"
        )


def _check_table(
    items: int, versions: int, starts: list[int], counts: list[int]
) -> None:
    """Requires that the items of each class lie within one version."""
    size = items // versions
    fits = len(starts) == len(counts) and items == versions * size
    if not fits or any(
        start < 0 or count < 1 or start + count > size
        for start, count in zip(starts, counts, strict=True)
    ):
        raise ValueError(
            "`starts` and `counts` must locate the items of each class among "
            f"{items} items of versions={versions}. Received: starts="
            f"{describe(starts)}, counts={describe(counts)}"
        )


def _check_enough(ways: int, each: int, counts: list[int]) -> None:
    if ways > len(counts) or each > min(counts):
        raise ValueError(
            "`counts` must have `ways` classes of `shots + queries` items. "
            f"Received: ways={ways}, shots + queries={each}, counts="
            f"{describe(counts)}"
        )


def _checked_inputs(x: Any, names: set[str]) -> dict[str, tf.Tensor]:
    """Requires that `augment` returned inputs of episodes."""
    if not isinstance(x, Mapping) or set(x) != names:
        raise ValueError(
            f"`augment` must return a dict of {sorted(names)}, like the one it "
            f"is given. Received: {describe(x)}"
        )
    return dict(x)
