"""Episodes from arrays in memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_meta.checks import check_positive
from keras_meta.episodes.arguments import as_array
from keras_meta.episodes.arguments import as_items
from keras_meta.episodes.arguments import as_list
from keras_meta.episodes.arguments import as_names
from keras_meta.episodes.classes import Classes


def load_arrays(
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    names: Sequence[str] | None = None,
) -> Classes:
    """Sorts items by class.

    Args:
        images: Items of any shape, `[items, ...]`: images, or feature
            vectors `[items, features]`. Integers keep their type; floats
            become float32.
        labels: Class of each item, `[items]`, integers or strings.
        names: Name of class `i` at position `i`, if the labels are integers.
            By default, a class is named by its label.

    Returns:
        `keras_meta.episodes.Classes`, sorted by label.

    Raises:
        ValueError: If the arrays have different lengths, an unsupported rank
            or type, or no items, or if items are NaN or infinite.

    Example:
    >>> import numpy as np
    >>> load_arrays(np.zeros([4, 2]), ["cat", "dog", "cat", "dog"]).names
    ('cat', 'dog')
    """
    items = _as_float32(as_items("images", images))
    labels = _checked_labels(labels, len(items))
    present, codes, counts = np.unique(
        labels, return_inverse=True, return_counts=True
    )
    order = np.argsort(codes, kind="stable")
    # Data sets are often sorted already. Then nothing needs to be copied.
    if not np.array_equal(order, np.arange(len(order))):
        items = items[order]
    ids = present if present.dtype.kind in "iu" else range(len(present))
    return Classes(items, counts, _names(present, names), ids)


def from_arrays(
    images: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    ways: int,
    shots: int,
    queries: int,
    tasks: int,
    names: Sequence[str] | None = None,
    classes: Sequence[int] | Sequence[str] | None = None,
    rotations: Sequence[int] = (),
    **options: Any,
) -> tf.data.Dataset:
    """Few-shot classification episodes from arrays.

    Args:
        images: Items of any shape, `[items, ...]`: uint8 images, or floats,
            which are used as they are.
        labels: Class of each item, `[items]`, integers or strings.
        ways: Number of classes in an episode.
        shots: Number of support items of each class.
        queries: Number of query items of each class.
        tasks: Number of episodes in a batch.
        names: Name of class `i` at position `i`, if the labels are integers.
        classes: Labels or names of the classes to use, or None for all.
        rotations: Angles, such as `(90, 180, 270)`; each adds a rotated
            version of every class as a new class.
        **options: `seed`, `start`, `num_batches`, `dtype`, `rotate`,
            `augment` and `shuffle`. See
            `keras_meta.episodes.Classes.episodes`.

    Returns:
        A `tf.data.Dataset` of `(x, y)`. `x["support_x"]` is
        `[tasks, ways * shots, ...]`, `x["support_y"]` is
        `[tasks, ways * shots]`, `x["query_x"]` is
        `[tasks, ways * queries, ...]` and `y` is `[tasks, ways * queries]`.
        Labels are int32 from 0 to `ways - 1`.

    Raises:
        ValueError: If `load_arrays` refuses the arrays, or they are too small
            for the episodes.

    Example:
    >>> import numpy as np
    >>> labels = np.repeat(np.arange(10), 20)
    >>> features = np.random.default_rng(0).normal(size=[200, 16])
    >>> episodes = from_arrays(
    ...     features, labels, ways=5, shots=1, queries=15, tasks=4)
    >>> episodes.element_spec[0]["support_x"].shape
    TensorShape([4, 5, 16])
    """
    check_positive(ways=ways, shots=shots, queries=queries, tasks=tasks)
    loaded = load_arrays(images, labels, names=names)
    if classes is not None:
        loaded = loaded.select(classes)
    if rotations is not None:
        loaded = loaded.rotations(*as_list("rotations", rotations))
    return loaded.episodes(
        ways=ways, shots=shots, queries=queries, tasks=tasks, **options
    )


def _as_float32(items: np.ndarray) -> np.ndarray:
    """Converts floats to float32, refusing numbers beyond its range."""
    if items.dtype.kind != "f" or items.dtype == np.float32:
        return items
    with np.errstate(over="ignore"):
        narrow = items.astype(np.float32)
    if not np.isfinite(narrow).all():
        raise ValueError(
            "`images` must be numbers within float32's range, up to 3e38. "
            f"Received: {np.abs(items).max():g}. Scale them down."
        )
    return narrow


def _checked_labels(labels: npt.ArrayLike, items: int) -> np.ndarray:
    labels = as_array("labels", labels)
    if labels.ndim != 1:
        raise ValueError(
            "`labels` must be [items], one class for each item. Received: "
            f"an array of shape {labels.shape}. Convert one-hot labels with "
            "`np.argmax(labels, axis=-1)`."
        )
    if len(labels) != items:
        raise ValueError(
            f"`images` has {items} items and `labels` has {len(labels)}; the "
            "numbers must be equal."
        )
    if labels.dtype.kind not in "iuUS":
        raise ValueError(
            "`labels` must be integers or strings. Received: an array of type "
            f"{labels.dtype}. Convert it with `labels.astype(int)`, or with "
            "`labels.astype(str)` if it holds strings."
        )
    if labels.dtype.kind != "S":
        return labels
    try:
        return np.char.decode(labels, "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            "`labels` must be strings or UTF-8 bytes. Received: "
            f"{error.object!r}. Decode them with `np.char.decode(labels, ...)`."
        ) from error


def _names(
    labels: np.ndarray, names: Sequence[str] | None
) -> list[str] | Sequence[str]:
    if names is None:
        return [str(label) for label in labels]
    if labels.dtype.kind not in "iu":
        raise ValueError("`names` needs integer `labels`; these are strings.")
    names = as_names("names", names)
    if labels.min() < 0 or labels.max() >= len(names):
        raise ValueError(
            f"`names` has {len(names)} entries, but `labels` runs from "
            f"{labels.min()} to {labels.max()}. Give each label a name."
        )
    return [names[label] for label in labels]
