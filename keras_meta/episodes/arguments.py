"""Checks of arguments that are arrays, lists and paths."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_meta.checks import check_finite_values
from keras_meta.checks import check_int64
from keras_meta.checks import check_positive
from keras_meta.checks import describe
from keras_meta.checks import is_finite_number
from keras_meta.checks import is_whole

_LARGEST = float(np.finfo(np.float32).max)


def as_array(name: str, value: Any) -> np.ndarray:
    """Returns an argument as a NumPy array.

    Args:
        name: Name of the argument.
        value: An array, a tensor, or nested lists of consistent lengths.

    Returns:
        The array. A value that is already an array is not copied.

    Raises:
        ValueError: If the value cannot be converted to an array of numbers or
            strings.

    Example:
    >>> as_array("labels", [0, 1, 1]).shape
    (3,)
    """
    if isinstance(value, tf.RaggedTensor):
        raise ValueError(
            f"`{name}` must be an array whose rows all have the same length. "
            f"Received a RaggedTensor of shape {value.shape}. Pad it, for "
            f"instance with `{name}.to_tensor()`."
        )
    if isinstance(value, tf.SparseTensor):
        raise ValueError(
            f"`{name}` must be a dense array. Received a SparseTensor of "
            f"shape {value.shape}. Pass `tf.sparse.to_dense({name})`."
        )
    try:
        array = np.asarray(value)
    except Exception as error:
        raise ValueError(
            f"`{name}` must be an array, or nested lists of equal lengths. "
            f"Received: {name}={describe(value)}"
        ) from error
    if array.dtype == object:
        raise ValueError(
            f"`{name}` must be an array of numbers or strings. Received: "
            f"{name}={describe(value)}, which holds other objects. Pad items "
            "of different shapes; convert a column of strings with "
            f"`{name}.astype(str)`."
        )
    return array


def as_items(name: str, value: Any) -> np.ndarray:
    """Returns items, such as images, as an array of finite numbers.

    Args:
        name: Name of the argument.
        value: Items `[items, ...]`.

    Returns:
        An array of integers or floats `[items, ...]`.

    Raises:
        ValueError: If the rank or type is wrong, or the array is empty or not
            finite.

    Example:
    >>> as_items("images", [[0.5], [1.0]]).shape
    (2, 1)
    """
    items = as_array(name, value)
    if items.ndim < 2:
        raise ValueError(
            f"`{name}` must be [items, ...] with at least one axis for each "
            f"item. Received: {name}={describe(value)} of shape "
            f"{items.shape}. Add an axis with `{name}[:, None]`."
        )
    if not items.size:
        raise ValueError(
            f"`{name}` must hold at least one item of at least one number. "
            f"Received: an array of shape {items.shape}."
        )
    if items.dtype.kind not in "iuf":
        raise ValueError(
            f"`{name}` must be integers or floats. Received: an array of type "
            f"{items.dtype}. Convert it with `{name}.astype('float32')`."
        )
    check_finite_values(**{name: items})
    return items


def as_list(name: str, value: Any) -> list:
    """Returns a sequence or a one-dimensional array as a list.

    Args:
        name: Name of the argument.
        value: The sequence.

    Returns:
        The entries. Entries of an array become Python numbers and strings.

    Raises:
        ValueError: If it is not a sequence.

    Example:
    >>> as_list("classes", np.array([1, 2]))
    [1, 2]
    """
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return list(value)
    # A set or a dict would become an array of objects.
    array = as_array(name, value)
    if array.ndim != 1:
        raise ValueError(
            f"`{name}` must be a list. Received: {name}={describe(value)}"
        )
    return array.tolist()


def as_integers(name: str, value: Any) -> list[int]:
    """Returns a sequence of integers as a list.

    Args:
        name: Name of the argument.
        value: The sequence.

    Returns:
        Python integers.

    Raises:
        ValueError: If it is not a sequence, or an entry is not an integer.

    Example:
    >>> as_integers("counts", [np.int64(3), 4])
    [3, 4]
    """
    entries = as_list(name, value)
    for entry in entries:
        if not is_whole(entry):
            raise ValueError(
                f"`{name}` must be a list of integers. Received: {name}="
                f"{describe(value)}, which has the entry {describe(entry)}"
            )
    return [int(entry) for entry in entries]


def as_names(name: str, value: Any) -> list[str]:
    """Returns a sequence of class names as a list.

    Args:
        name: Name of the argument.
        value: Strings, or integers, which become their digits.

    Returns:
        Strings.

    Raises:
        ValueError: If it is not a sequence, or an entry is neither a string nor
            an integer.

    Example:
    >>> as_names("names", ["cat", 7])
    ['cat', '7']
    """
    entries = as_list(name, value)
    for entry in entries:
        if not isinstance(entry, str) and not is_whole(entry):
            raise ValueError(
                f"`{name}` must be a list of strings. Received: {name}="
                f"{describe(value)}, which has the entry {describe(entry)}"
            )
    return [str(entry) for entry in entries]


def check_string(**values: str) -> None:
    """Requires non-empty strings.

    Args:
        **values: Values by argument name.

    Raises:
        ValueError: If a value is not a string, or is empty.

    Example:
    >>> check_string(split="train")
    """
    for name, value in values.items():
        if not isinstance(value, str) or not value:
            raise ValueError(
                f"`{name}` must be a non-empty string. Received: "
                f"{name}={describe(value)}"
            )


def check_path(**values: str | os.PathLike) -> None:
    """Requires paths of files or folders.

    Args:
        **values: Values by argument name.

    Raises:
        ValueError: If a value is neither a string nor a path, is empty, or
            contains a null character.

    Example:
    >>> check_path(path="birds")
    """
    for name, value in values.items():
        is_path = isinstance(value, (str, os.PathLike))
        text = os.fspath(value) if is_path else None
        if not isinstance(text, str) or not text or "\0" in text:
            raise ValueError(
                f"`{name}` must be the path of a folder, a string or "
                f"pathlib.Path. Received: {name}={describe(value)}"
            )


def check_index(index: int | tf.Tensor) -> None:
    """Requires the index of an episode or an instance.

    Args:
        index: A nonnegative integer, or a scalar integer tensor.

    Raises:
        ValueError: If `index` is neither.

    Example:
    >>> check_index(0)
    """
    if _is_integer_tensor(index):
        return
    if not is_whole(index) or not 0 <= index < 2**63:
        raise ValueError(
            "`index` must be an integer of at least 0. Received: index="
            f"{describe(index)}"
        )


def check_drawing(
    seed: int | tf.Tensor, index: int | tf.Tensor, tasks: int
) -> None:
    """Checks which episodes are to be drawn.

    Args:
        seed: Seed of the episodes.
        index: Index of the first one.
        tasks: How many.

    Raises:
        ValueError: If the seed or the index is not an integer, the index is
            negative, or there are none.
    """
    check_seed(seed)
    check_index(index)
    check_positive(tasks=tasks)


def check_range(**ranges: Any) -> None:
    """Requires pairs of numbers in order, in float32's range.

    Args:
        **ranges: Values by argument name.

    Raises:
        ValueError: If one is something else.
    """
    for name, bounds in ranges.items():
        if not _is_range(bounds):
            raise ValueError(
                f"`{name}` must be (smallest, largest), two numbers in "
                "order within float32's range. Received: "
                f"{name}={describe(bounds)}"
            )


def check_seed(seed: int | tf.Tensor) -> None:
    """Requires a 64-bit seed.

    Args:
        seed: An integer, or a scalar integer tensor.

    Raises:
        ValueError: If `seed` is neither.

    Example:
    >>> check_seed(-1)
    """
    if not _is_integer_tensor(seed):
        check_int64(seed=seed)


def _is_integer_tensor(value: Any) -> bool:
    is_tensor = tf.is_tensor(value) and isinstance(value, tf.Tensor)
    return is_tensor and value.dtype.is_integer and value.shape.rank == 0


def _is_range(bounds: object) -> bool:
    """Whether `bounds` is a pair of numbers in order, in float32's range."""
    if isinstance(bounds, np.ndarray):
        bounds = bounds.tolist()
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        return False
    low, high = bounds
    if not all(map(is_finite_number, bounds)) or low > high:
        return False
    # Random numbers are multiplied by the difference.
    return max(abs(low), abs(high), high - low) <= _LARGEST
