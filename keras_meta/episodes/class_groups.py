"""Groups of classes, such as regions, each of which holds whole tasks."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_meta.checks import check_at_least
from keras_meta.checks import check_int64
from keras_meta.checks import check_positive
from keras_meta.checks import describe
from keras_meta.episodes.arguments import as_list
from keras_meta.episodes.arguments import as_names
from keras_meta.episodes.classes import Classes

# Keeps the episodes of different groups apart.
_SEEDS_APART = 2**40


class ClassGroups:
    """Classes in groups: each episode is drawn inside one group.

    A group may be a region of the world, an alphabet, a hospital or a user.
    The groups share what their classes are, or not; an episode numbers its
    classes at random.

    Args:
        groups: The groups, `Classes` with items of one shape and type.
        names: Name of each group; by default, numbers.

    Attributes:
        groups: The groups, a tuple.
        names: Their names, a tuple of strings.

    Raises:
        ValueError: If there is no group, or the arguments do not fit
            together.

    Example:
    >>> import numpy as np
    >>> from keras_meta import episodes
    >>> images, labels = np.zeros([40, 8, 8, 1], "uint8"), np.arange(40) % 2
    >>> north = episodes.load_arrays(images, labels)
    >>> south = episodes.load_arrays(images + 255, labels)
    >>> regions = episodes.ClassGroups([north, south], ["north", "south"])
    >>> x, y = next(
    ...     iter(regions.episodes(ways=2, shots=1, queries=3, tasks=4))
    ... )
    >>> x["support_x"][:, 0, 0, 0, 0].numpy()  # By turns.
    array([0., 1., 0., 1.], dtype=float32)
    """

    def __init__(
        self, groups: Sequence[Classes], names: Sequence[str] | None = None
    ):
        groups = tuple(as_list("groups", groups))
        if not groups or not all(isinstance(g, Classes) for g in groups):
            raise ValueError(
                "`groups` must be keras_meta.episodes.Classes, at least one. "
                f"Received: groups={describe(groups)}"
            )
        kinds = {(g.item_shape, g.dtype) for g in groups}
        if len(kinds) > 1:
            raise ValueError(
                "`groups` must have items of one shape and type. Received: "
                f"{sorted(kinds)}. Resize or convert them."
            )
        if names is None:
            names = list(map(str, range(len(groups))))
        names = tuple(as_names("names", names))
        if len(names) != len(groups):
            raise ValueError(
                "`names` must have one name for each of the groups. Received: "
                f"{len(names)} names and {len(groups)} groups."
            )
        self.groups = groups
        self.names = names

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one item."""
        return self.groups[0].item_shape

    def __len__(self) -> int:
        """Number of classes with different names, in all groups."""
        return len({name for group in self.groups for name in group.names})

    def __repr__(self) -> str:
        items = sum(int(g.counts.sum()) for g in self.groups)
        return (
            f"<ClassGroups: {len(self.groups)} groups, {len(self)} classes, "
            f"{items} items>"
        )

    def having(self, items: int, ways: int) -> ClassGroups:
        """Keeps what tasks can be drawn from.

        Args:
            items: Items that a class needs, shots and queries together.
            ways: Classes that a group needs, each with as many items.

        Returns:
            The groups without smaller classes, and without groups that have
            too few classes left.

        Raises:
            ValueError: If no group is left.
        """
        check_positive(items=items)
        check_at_least(1, ways=ways)
        kept = []
        for name, group in zip(self.names, self.groups, strict=True):
            large = np.flatnonzero(group.counts >= items)
            if len(large) >= ways:
                chosen = group.select([group.ids[i] for i in large])
                kept.append((name, chosen))
        if not kept:
            raise ValueError(
                "No group has as many classes and items. Received: "
                f"items={describe(items)}, ways={describe(ways)} and {self}. "
                "Draw smaller tasks."
            )
        names, groups = zip(*kept, strict=True)
        return ClassGroups(groups, names)

    def pooled(self) -> Classes:
        """Returns all items, those of a name as one class.

        For ordinary classification, such as pre-training.
        """
        items: dict[str, list[np.ndarray]] = {}
        for group in self.groups:
            for label, name in zip(group.ids, group.names, strict=True):
                items.setdefault(name, []).append(group.items_of(label))
        names = sorted(items)
        parts = [np.concatenate(items[name]) for name in names]
        return Classes(np.concatenate(parts), list(map(len, parts)), names)

    def episodes(
        self,
        *,
        ways: int,
        shots: int,
        queries: int,
        tasks: int,
        seed: int = 0,
        start: int = 0,
        num_batches: int | None = None,
        dtype: str = "float32",
        rotate: str | None = None,
        augment: Callable | None = None,
        shuffle: bool = False,
    ) -> tf.data.Dataset:
        """Few-shot classification episodes, ready for `model.fit`.

        Episode `i` is drawn inside group `i % len(groups)`, so that all
        groups have as many, whatever their size. It depends only on `seed`
        and `i`.

        Args:
            ways: See `Classes.episodes`.
            shots: See `Classes.episodes`.
            queries: See `Classes.episodes`.
            tasks: Number of episodes in a batch.
            seed: Seed of the episodes.
            start: Index of the first episode.
            num_batches: Number of batches, or None for an endless data set.
            dtype: See `Classes.episodes`.
            rotate: See `Classes.episodes`.
            augment: See `Classes.episodes`.
            shuffle: See `Classes.episodes`.

        Returns:
            A `tf.data.Dataset` as that of `Classes.episodes`.

        Raises:
            ValueError: If an argument is out of range, or a group is too
                small for such tasks; see `having`.
        """
        check_positive(tasks=tasks)
        check_at_least(0, start=start)
        check_int64(seed=seed, start=start)
        if num_batches is not None:
            check_positive(num_batches=num_batches)
        sources = [
            group.episodes(
                ways=ways,
                shots=shots,
                queries=queries,
                tasks=1,
                seed=int(seed) + i * _SEEDS_APART,
                start=_before(int(start), i, len(self.groups)),
                dtype=dtype,
                rotate=rotate,
                augment=augment,
                shuffle=shuffle,
            )
            for i, group in enumerate(self.groups)
        ]
        turns = tf.data.Dataset.counter(int(start)).map(
            lambda i: i % len(sources)
        )
        single = tf.data.Dataset.choose_from_datasets(sources, turns)
        batches = single.batch(tasks, drop_remainder=True).map(_without_ones)
        if num_batches is not None:
            batches = batches.take(num_batches)
        return batches.prefetch(tf.data.AUTOTUNE)


def _before(start: int, group: int, groups: int) -> int:
    """Returns how many episodes of a group come before one.

    Args:
        start: Index of the episode among those of all groups.
        group: Number of the group.
        groups: How many groups take turns.
    """
    return (start - group + groups - 1) // groups


def _without_ones(x: Any, y: Any) -> tuple[Any, Any]:
    """Drops the axis of batches of one episode."""
    return tf.nest.map_structure(lambda a: tf.squeeze(a, axis=1), (x, y))
