"""Items of many classes in memory, from which episodes are drawn."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_meta.checks import check_choice
from keras_meta.checks import check_number_at_least
from keras_meta.checks import check_positive
from keras_meta.checks import describe
from keras_meta.checks import is_whole
from keras_meta.episodes.arguments import as_integers
from keras_meta.episodes.arguments import as_items
from keras_meta.episodes.arguments import as_list
from keras_meta.episodes.arguments import as_names
from keras_meta.episodes.examples import ExampleSampler
from keras_meta.episodes.sampling import EpisodeSampler

_QUARTER_TURN = 90
_ALL_TURNS = (0, 1, 2, 3)


class Classes:
    """Items of many classes, held in memory.

    Images stay uint8. Selecting, splitting and rotating classes does not copy
    images: the result refers to the same array.

    `load_arrays`, `load_tfds`, `load_directory` and `omniglot` in
    `keras_meta.episodes` return instances.

    Args:
        items: Array `[items, ...]`, sorted by class.
        counts: Number of items of each class, `[classes]`, in the order of
            the classes in `items`.
        names: Name of each class.
        ids: Label of each class in its data set. By default, `0, 1, ...`.

    Attributes:
        names: Name of each class, a tuple of strings.
        ids: Label of each class, a tuple of integers.
        counts: Number of items of each class, an int64 array `[classes]`.
        item_shape: Shape of one item.
        dtype: Type of the items.

    Raises:
        ValueError: If the arguments do not fit together.

    Example:
    >>> import numpy as np
    >>> classes = Classes(np.zeros([6, 8, 8, 1], "uint8"), [3, 3], ["a", "b"])
    >>> classes
    <Classes: 2 classes, 6 items of shape (8, 8, 1), uint8>
    >>> classes.rotations(90, 180, 270).names[-1]
    'b/rotated270'
    """

    def __init__(
        self,
        items: np.ndarray,
        counts: Sequence[int] | np.ndarray,
        names: Sequence[str],
        ids: Sequence[int] | np.ndarray | None = None,
    ):
        items = as_items("items", items)
        counts = as_integers("counts", counts)
        names = as_names("names", names)
        if ids is None:
            ids = range(len(names))
        ids = as_integers("ids", ids)
        if not len(counts) == len(names) == len(ids):
            raise ValueError(
                "`counts`, `names` and `ids` must have one entry for each "
                f"class. Received: {len(counts)}, {len(names)} and {len(ids)}."
            )
        check_positive(**{f"counts[{i}]": n for i, n in enumerate(counts)})
        if sum(counts) != len(items):
            raise ValueError(
                f"`counts` must add up to the number of items, {len(items)}. "
                f"Received counts that add up to {sum(counts)}."
            )
        _check_different(names=names, ids=ids)
        counts = np.array(counts, np.int64)
        self._items = items
        self._starts = np.cumsum(counts) - counts
        self._turns = np.zeros_like(counts)
        self.counts = counts
        self.names = tuple(names)
        self.ids = tuple(ids)

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one item."""
        return self._items.shape[1:]

    @property
    def dtype(self) -> str:
        """Name of the type of the items."""
        return self._items.dtype.name

    def __len__(self) -> int:
        """Number of classes."""
        return len(self.names)

    def __repr__(self) -> str:
        return (
            f"<Classes: {len(self)} classes, {self.counts.sum()} items of "
            f"shape {self.item_shape}, {self.dtype}>"
        )

    def items_of(self, label: int | str) -> np.ndarray:
        """Returns the items of one class.

        Args:
            label: Id or name of the class.

        Returns:
            An array `[items of the class, ...]`.

        Raises:
            ValueError: If there is no such class.
        """
        (position,) = self._positions([label], "label")
        return self._items_at(position)

    def select(self, classes: Sequence[int] | Sequence[str]) -> "Classes":
        """Keeps some of the classes.

        Args:
            classes: Ids (integers) or names (strings), in any order.

        Returns:
            The selected `Classes`, in that order.

        Raises:
            ValueError: If `classes` is empty, or names a class that is
                unknown, or names a class twice.

        Example:
        >>> import numpy as np
        >>> pets = Classes(np.zeros([3, 2]), [1, 1, 1], ["cat", "dog", "hen"])
        >>> pets.select(["hen", "cat"]).ids
        (2, 0)
        """
        positions = self._positions(classes, "classes")
        if not positions:
            raise ValueError(
                "`classes` must name at least one class. Received: "
                f"classes={describe(classes)}"
            )
        repeated = _repeated(positions)
        if repeated:
            raise ValueError(
                f"`classes` names {self.names[repeated[0]]!r} twice; name "
                "each class once."
            )
        return self._subset(positions)

    def split(
        self,
        train: float = 0.64,
        validation: float = 0.16,
        test: float = 0.2,
        *,
        seed: int = 0,
    ) -> dict[str, "Classes"]:
        """Splits the classes at random into disjoint parts.

        The split depends only on the seed and the number of classes. Call it
        before `rotations`, so that all versions of a class stay in one part.

        Args:
            train: Fraction of the classes for training.
            validation: Fraction for choosing settings.
            test: Fraction for reporting. The three must add up to 1.
            seed: Seed of the split.

        Returns:
            A dict with the keys `"train"`, `"validation"` and `"test"`. Parts
            whose fraction is 0 are left out.

        Raises:
            ValueError: If a fraction is negative, if they do not add up to 1,
                if a part would be empty, or if the classes have already been
                rotated.

        Example:
        >>> import numpy as np
        >>> names = [str(i) for i in range(10)]
        >>> parts = Classes(np.zeros([10, 2]), [1] * 10, names).split(
        ...     train=0.5, validation=0.2, test=0.3)
        >>> {key: len(part) for key, part in parts.items()}
        {'train': 5, 'validation': 2, 'test': 3}
        """
        shares = {"train": train, "validation": validation, "test": test}
        check_number_at_least(0, **shares)
        # The range that NumPy's generator accepts.
        if not is_whole(seed) or not 0 <= seed < 2**32:
            raise ValueError(
                "`seed` must be an integer from 0 to 2**32 - 1. Received: "
                f"seed={describe(seed)}"
            )
        if abs(sum(shares.values()) - 1) > 1e-6:
            raise ValueError(
                "`train`, `validation` and `test` must be fractions that add "
                f"up to 1. Received: {train}, {validation} and {test}."
            )
        if self._turns.any():
            raise ValueError(
                "`split` would put rotated versions of a class into different "
                "parts. Call `split` before `rotations`."
            )
        # RandomState, because its stream is frozen across NumPy versions.
        order = np.random.RandomState(seed).permutation(len(self))
        bounds = np.rint(np.cumsum([0, *shares.values()]) * len(self))
        bounds = bounds.astype(int)
        parts = {}
        for key, low, high in zip(shares, bounds, bounds[1:], strict=False):
            if low < high:
                parts[key] = self._subset(np.sort(order[low:high]))
            elif shares[key] > 0:
                raise ValueError(
                    f"`{key}={shares[key]}` of {len(self)} classes rounds to "
                    "no class. Use a larger fraction, or 0."
                )
        return parts

    def split_by(
        self, parts: Mapping[str, Sequence[int] | Sequence[str]]
    ) -> dict[str, "Classes"]:
        """Splits the classes as listed.

        Args:
            parts: Ids or names of the classes of each part, by the name of
                the part. Classes that are not listed are left out.

        Returns:
            A dict of `Classes` with the keys of `parts`.

        Raises:
            ValueError: If a class is unknown or in two lists.

        Example:
        >>> import numpy as np
        >>> pets = Classes(np.zeros([3, 2]), [1, 1, 1], ["cat", "dog", "hen"])
        >>> pets.split_by({"train": ["cat", "dog"], "test": ["hen"]})["test"]
        <Classes: 1 classes, 1 items of shape (2,), float64>
        """
        if not isinstance(parts, Mapping):
            raise ValueError(
                "`parts` must be a dict from the name of a part to a list of "
                f"classes. Received: parts={describe(parts)}"
            )
        result = {}
        for key, part in parts.items():
            try:
                result[key] = self.select(part)
            except ValueError as error:
                raise ValueError(f"`parts[{key!r}]`: {error}") from error
        owner = {}
        for key, part in result.items():
            for label, name in zip(part.ids, part.names, strict=True):
                if label in owner:
                    raise ValueError(
                        f"`parts` has class {name!r} in {owner[label]!r} and "
                        f"in {key!r}; keep each class in one list."
                    )
                owner[label] = key
        return result

    def rotations(self, *degrees: int) -> "Classes":
        """Adds rotated versions of every class as new classes.

        Args:
            *degrees: Angles, counter-clockwise, such as `90, 180, 270`.

        Returns:
            `Classes` with `1 + len(degrees)` times as many classes. The
            original classes come first and keep their ids; new ids follow the
            largest of these.

        Raises:
            ValueError: If an angle is not a multiple of 90, is a full turn or
                is repeated, if the items are not square images, or if the
                classes have already been rotated.
        """
        turns = [_turns(angle, self.item_shape) for angle in degrees]
        if len(set(turns)) < len(turns) or 0 in turns:
            raise ValueError(
                "`degrees` must be different angles, and not full turns. "
                f"Received: {degrees}."
            )
        if self._turns.any():
            raise ValueError(
                "These classes have already been rotated. Pass all angles in "
                "one call of `rotations`."
            )
        copies = 1 + len(turns)
        rotated = self._subset(np.tile(np.arange(len(self)), copies))
        rotated._turns = np.repeat([0, *turns], len(self))
        distance = max(self.ids) - min(0, *self.ids) + 1
        rotated.ids = tuple(
            label + copy * distance
            for copy in range(copies)
            for label in self.ids
        )
        rotated.names = self.names + tuple(
            f"{name}/rotated{turn * _QUARTER_TURN}"
            for turn in turns
            for name in self.names
        )
        return rotated

    def sampler(
        self,
        *,
        ways: int,
        shots: int,
        queries: int,
        seed: int = 0,
        dtype: str = "float32",
        rotate: str | None = None,
        augment: Callable | None = None,
        shuffle: bool = False,
    ) -> EpisodeSampler:
        """Returns a sampler that draws episodes by their index.

        Args:
            ways: Number of classes in an episode.
            shots: Number of support items of each class.
            queries: Number of query items of each class.
            seed: Seed of the episodes.
            dtype: `"float32"`, which scales uint8 images to the range 0 to 1,
                or the items' own type, such as `"uint8"`, which leaves them
                unchanged.
            rotate: `"class"` turns each class of each episode by a random
                multiple of 90 degrees; None does not.
            augment: Optional function `(seed, index, x) -> x`, such as a
                `keras_meta.episodes.Augment`.
            shuffle: Whether to shuffle the items of a support or query set.
                By default, they are sorted by class.

        Returns:
            A `keras_meta.episodes.EpisodeSampler`.

        Raises:
            ValueError: If a size is not positive, there are fewer classes
                than `ways`, a class has fewer items than `shots + queries`,
                or `dtype` or `rotate` is not an allowed value.
        """
        check_positive(ways=ways, shots=shots, queries=queries)
        check_choice("rotate", rotate, (None, "class"))
        self._check_enough(ways, shots, queries)
        turns = (0,) if rotate is None else _ALL_TURNS
        if rotate is not None:
            _turns(_QUARTER_TURN, self.item_shape)
        items, starts = self._table(turns)
        return EpisodeSampler(
            items,
            starts,
            self.counts,
            ways=ways,
            shots=shots,
            queries=queries,
            seed=seed,
            dtype=dtype,
            versions=len(turns),
            shuffle=shuffle,
            augment=augment,
        )

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

        Each episode draws `ways` classes, gives them the labels
        `0, ..., ways - 1` in random order, and draws `shots + queries`
        different items of each class. Episode `i` depends only on `seed` and
        `i`.

        Args:
            ways: Number of classes in an episode.
            shots: Number of support items of each class.
            queries: Number of query items of each class.
            tasks: Number of episodes in a batch.
            seed: Seed of the episodes.
            start: Index of the first episode.
            num_batches: Number of batches, or None for an endless data set.
            dtype: `"float32"`, which scales uint8 images to the range 0 to 1,
                or the items' own type, such as `"uint8"`, which leaves them
                unchanged.
            rotate: `"class"` turns each class of each episode by a random
                multiple of 90 degrees; None does not.
            augment: Optional function `(seed, index, x) -> x`, such as a
                `keras_meta.episodes.Augment`.
            shuffle: Whether to shuffle the items of a support or query set.
                By default, they are sorted by class.

        Returns:
            A `tf.data.Dataset` of `(x, y)`. `x["support_x"]` is
            `[tasks, ways * shots, ...]`, `x["support_y"]` is
            `[tasks, ways * shots]`, `x["query_x"]` is
            `[tasks, ways * queries, ...]` and `y` is
            `[tasks, ways * queries]`. Labels are int32.

        Raises:
            ValueError: If a size is not positive, there are fewer classes
                than `ways`, a class has fewer items than `shots + queries`,
                or `dtype` or `rotate` is not an allowed value.

        Example:
        >>> import numpy as np
        >>> classes = Classes(np.zeros([6, 8, 8, 1], "uint8"), [3, 3], "ab")
        >>> x, y = next(iter(classes.episodes(
        ...     ways=2, shots=1, queries=2, tasks=4)))
        >>> x["support_x"].shape, y.shape
        (TensorShape([4, 2, 8, 8, 1]), TensorShape([4, 4]))
        """
        return self.sampler(
            ways=ways,
            shots=shots,
            queries=queries,
            seed=seed,
            dtype=dtype,
            rotate=rotate,
            augment=augment,
            shuffle=shuffle,
        ).dataset(tasks=tasks, start=start, num_batches=num_batches)

    def examples(
        self,
        batch_size: int = 64,
        *,
        seed: int = 0,
        start: int = 0,
        num_batches: int | None = None,
        dtype: str = "float32",
        rotate: str | None = None,
    ) -> tf.data.Dataset:
        """Single items with class numbers, to train an ordinary classifier.

        Every item comes once before any comes again. Example `i` depends only
        on `seed` and `i`.

        Args:
            batch_size: Number of items in a batch.
            seed: Seed of the order.
            start: Index of the first example. To resume training that stopped
                after `n` batches, pass `start=n * batch_size`.
            num_batches: Number of batches, or None for an endless data set.
            dtype: See `episodes`.
            rotate: `"item"` turns each item by a random multiple of 90
                degrees, and its class stays the same; None does not. For
                rotated versions that count as other classes, call
                `rotations` first.

        Returns:
            A `tf.data.Dataset` of `(x, y)`: `[batch_size, ...]`, and the
            places of the classes in `names`, int32 `[batch_size]`.

        Raises:
            ValueError: If `batch_size` or `num_batches` is not positive, or
                `dtype` or `rotate` is not an allowed value.

        Example:
        ```python
        encoder = keras.Sequential([keras.Input([28, 28, 1]), ...])
        model = keras.Sequential([encoder, keras.layers.Dense(len(classes))])
        model.compile("adam", loss, metrics=["accuracy"])
        model.fit(classes.examples(batch_size=64), steps_per_epoch=500)
        ```
        """
        check_choice("rotate", rotate, (None, "item"))
        turns = (0,) if rotate is None else _ALL_TURNS
        if rotate is not None:
            _turns(_QUARTER_TURN, self.item_shape)
        items, _ = self._table(turns)
        sampler = ExampleSampler(
            items, self.counts, seed=seed, dtype=dtype, versions=len(turns)
        )
        return sampler.dataset(batch_size, start, num_batches)

    def _subset(self, positions: Sequence[int] | np.ndarray) -> "Classes":
        subset = Classes.__new__(Classes)
        subset._items = self._items
        subset._starts = self._starts[positions]
        subset._turns = self._turns[positions]
        subset.counts = self.counts[positions]
        subset.names = tuple(self.names[p] for p in positions)
        subset.ids = tuple(self.ids[p] for p in positions)
        return subset

    def _positions(self, classes: Sequence, argument: str) -> list[int]:
        if isinstance(classes, str):
            raise ValueError(
                f"`{argument}` must be a list of classes. Received: {argument}="
                f"{describe(classes)}. For one class, pass "
                f"[{describe(classes)}]."
            )
        by_id = {label: place for place, label in enumerate(self.ids)}
        by_name = {name: place for place, name in enumerate(self.names)}
        positions = []
        for label in as_list(argument, classes):
            if not isinstance(label, str) and not is_whole(label):
                raise ValueError(
                    f"`{argument}` must hold ids (integers) or names "
                    f"(strings). Received: {describe(label)}"
                )
            known = by_name if isinstance(label, str) else by_id
            if label not in known:
                raise ValueError(
                    f"`{argument}` has {describe(label)}, which is not one of "
                    f"the {len(self)} classes. They are {_listing(known)}."
                )
            positions.append(known[label])
        return positions

    def _check_enough(self, ways: int, shots: int, queries: int) -> None:
        if ways > len(self):
            raise ValueError(
                f"`ways={ways}` needs at least {ways} classes, but there are "
                f"{len(self)}. Lower `ways` or provide more classes."
            )
        smallest = int(np.argmin(self.counts))
        if self.counts[smallest] < shots + queries:
            raise ValueError(
                f"Class {self.names[smallest]!r} has "
                f"{self.counts[smallest]} items, but `shots={shots}` and "
                f"`queries={queries}` need {shots + queries} different ones. "
                "Lower them, or leave the class out with `select`."
            )

    def _items_at(self, position: int, more_turns: int = 0) -> np.ndarray:
        start, count = self._starts[position], self.counts[position]
        turns = (self._turns[position] + more_turns) % 4
        items = self._items[start : start + count]
        return np.rot90(items, turns, axes=(1, 2)) if turns else items

    def _table(self, turns: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Returns the items of these classes and where each class starts.

        Rotated versions are made here, once: turning images in every episode
        costs more than gathering them.
        """
        starts = np.cumsum(self.counts) - self.counts
        untouched = (
            len(turns) == 1
            and not self._turns.any()
            and np.array_equal(starts, self._starts)
            and self.counts.sum() == len(self._items)
        )
        if untouched:
            return self._items, starts
        shape = (len(turns) * self.counts.sum(), *self.item_shape)
        items = np.empty(shape, self._items.dtype)
        place = 0
        for turn in turns:
            for position, count in enumerate(self.counts):
                items[place : place + count] = self._items_at(position, turn)
                place += count
        return items, starts


def _turns(degrees: int, shape: tuple[int, ...]) -> int:
    if not is_whole(degrees) or degrees % _QUARTER_TURN:
        raise ValueError(
            f"`degrees` must be integer multiples of {_QUARTER_TURN}. "
            f"Received: {describe(degrees)}. `keras_meta.episodes.Augment` "
            "rotates by other angles."
        )
    if len(shape) != 3 or shape[0] != shape[1]:
        raise ValueError(
            "Rotations need square images [items, size, size, channels]. "
            f"Received: items of shape {shape}."
        )
    return int(degrees) // _QUARTER_TURN % 4


def _repeated(values: Sequence[int] | Sequence[str]) -> list:
    unique, times = np.unique(values, return_counts=True)
    return unique[times > 1].tolist()


def _listing(known: Mapping, most: int = 10) -> str:
    shown = ", ".join(repr(label) for label in list(known)[:most])
    return shown + (", ..." if len(known) > most else "")


def _check_different(**entries: list) -> None:
    """Requires that no two classes share an entry."""
    for name, values in entries.items():
        repeated = _repeated(values)
        if repeated:
            raise ValueError(
                f"`{name}` must be different for each class. Received "
                f"{repeated[0]!r} {values.count(repeated[0])} times."
            )
