"""Arrays from users, as tensors."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_meta.checks import describe

_WAYS_OUT = {
    tf.RaggedTensor: "Pad it: `.to_tensor()`.",
    tf.SparseTensor: "Fill it in: `tf.sparse.to_dense(...)`.",
}


def as_tensors(inputs: dict[str, Any]) -> dict[str, Any]:
    """Returns the arrays of an episode as tensors.

    Args:
        inputs: Nested arrays by the name of the argument.

    Raises:
        TypeError: If one is not a dense array of numbers or, for inputs, of
            strings.
    """
    return {
        name: as_nested_tensors(name, value) for name, value in inputs.items()
    }


def as_nested_tensors(name: str, value: Any) -> Any:
    """Returns nested arrays of one argument as tensors, see `as_tensor`.

    A list of numbers is one array; a list of arrays is several inputs.
    """
    if isinstance(value, dict):
        return {k: as_nested_tensors(name, v) for k, v in value.items()}
    if not isinstance(value, (list, tuple)) or _is_nest_of_scalars(value):
        return as_tensor(name, value)
    tensors = [as_nested_tensors(name, v) for v in value]
    make = getattr(value, "_make", type(value))
    return make(tensors)


def as_tensor(name: str, value: Any) -> tf.Tensor:
    """Returns an array as a tensor.

    Args:
        name: What errors call it.
        value: An array, a tensor or nested lists of numbers.

    Raises:
        TypeError: If it is not a dense array, or has strings for numbers.
    """
    if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
        raise TypeError(_not_dense(name, value))
    try:
        # Lists of numbers get the types that NumPy gives them, so that
        # large integers fit.
        is_list = isinstance(value, (list, tuple))
        array = np.asarray(value) if is_list else value
        is_float = is_list and array.dtype.kind == "f"
        dtype = keras.config.floatx() if is_float else None
        tensor = tf.convert_to_tensor(array, dtype)
    except (TypeError, ValueError):
        raise TypeError(
            f"`{name}` must be an array of numbers, [tasks, examples, ...]. "
            f"Received: {_describe(value)}. Pad or crop examples of different "
            "sizes, and replace missing values by numbers."
        ) from None
    if tensor.dtype == tf.string and not name.endswith("_x"):
        raise TypeError(_no_strings(name))
    return tensor


def _not_dense(name: str, value: tf.RaggedTensor | tf.SparseTensor) -> str:
    return (
        f"`{name}` must be a dense tensor. Received: a "
        f"{type(value).__name__} of the shape {value.shape}. "
        f"{_WAYS_OUT[type(value)]}"
    )


def _no_strings(name: str) -> str:
    way_out = (
        "Number the classes of each task from 0 on, by np.unique(labels, "
        "return_inverse=True)[1], for instance."
    )
    hint = way_out if name.endswith("_y") else "Pass an array of numbers."
    return f"`{name}` must be numbers. Received: strings. {hint}"


def check_arrays(x: Any, y: Any = None, sample_weight: Any = None) -> None:
    """Refuses arrays that Keras would refuse without saying which.

    Args:
        x: The `x` of `fit`. Nothing is checked unless it is a dict; otherwise
            it is not an array or not an episode.
        y: The `y` of `fit`, or `None`.
        sample_weight: The `sample_weight` of `fit`, or `None`.

    Raises:
        TypeError: If something is not an array, or is an array of Python
            objects or of NumPy's strings.
        ValueError: If an array is empty, or if there are different numbers of
            tasks.
    """
    if not isinstance(x, dict):
        return
    others = {"query_y": y, "sample_weight": sample_weight}
    named = x | {k: v for k, v in others.items() if v is not None}
    flat = [
        (name, leaf)
        for name, value in named.items()
        for leaf in _leaves(name, value)
    ]
    for name, leaf in flat:
        _check_array(name, leaf)
    check_equal_axis(
        [(name, tf.TensorShape(leaf.shape)) for name, leaf in flat],
        0,
        "the same number of tasks (axis 0)",
    )


def check_equal_axis(
    shapes: Sequence[tuple[str, tf.TensorShape]], axis: int, what: str
) -> None:
    """Requires that arrays agree in the size of an axis.

    Args:
        shapes: Shapes, and what errors call their arrays.
        axis: The axis.
        what: What errors call the size.

    Raises:
        ValueError: If known sizes differ.
    """
    sizes = {s[axis] for _, s in shapes}
    if len(sizes - {None}) > 1:
        received = ", ".join(f"{name}.shape={s}" for name, s in shapes)
        names = " and ".join(dict.fromkeys(f"`{name}`" for name, _ in shapes))
        raise ValueError(f"{names} must have {what}. Received: {received}")


def _leaves(name: str, value: Any) -> list[Any]:
    # Of several outputs some may have no labels or weights.
    leaves = [x for x in keras.tree.flatten(value) if x is not None]
    if not leaves:
        raise ValueError(
            f"`{name}` must hold an array. Received: {name}={value}"
        )
    return leaves


def _check_array(name: str, value: Any) -> None:
    """Requires an array of numbers, `[tasks, ...]`."""
    if isinstance(value, tuple(_WAYS_OUT)):
        raise TypeError(_not_dense(name, value))
    is_array = hasattr(value, "__array__") and hasattr(value, "shape")
    if not is_array or isinstance(value, (type, keras.KerasTensor)):
        raise TypeError(
            f"`{name}` must be an array of numbers, [tasks, examples, ...]. "
            f"Received: {describe(value)}. Turn lists into arrays by "
            "np.asarray(...)."
        )
    if not len(value.shape) or not value.shape[0]:
        raise ValueError(
            f"`{name}` must have at least one task (axis 0). Received: "
            f"{name}.shape={value.shape}"
        )
    if isinstance(value, np.ndarray):
        _check_kind(name, value.dtype.kind)


def _check_kind(name: str, kind: str) -> None:
    """Refuses kinds of NumPy arrays that Keras does not accept."""
    if kind == "U" and name.endswith("_x"):
        raise TypeError(
            f"`{name}` must not be an array of NumPy's strings, which Keras "
            "does not accept. Pass tf.constant(...) of it."
        )
    if kind in "SU":
        raise TypeError(_no_strings(name))
    if kind == "O":
        raise TypeError(
            f"`{name}` must be an array of numbers. Received: an array of "
            "Python objects. Pad or crop examples of different sizes, and "
            "replace missing values by numbers."
        )
    if kind in "mM":
        raise TypeError(
            f"`{name}` must be an array of numbers. Received: dates or times. "
            "Turn them into numbers: `.astype(float)`."
        )


def _is_nest_of_scalars(value: Any) -> bool:
    """Whether nested lists hold numbers and words, so are one array."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_nest_of_scalars, value))
    return isinstance(value, (numbers.Number, str, bytes))


def _describe(value: Any) -> str:
    dtype = getattr(value, "dtype", None)
    kind = f"a {type(value).__name__}"
    if value is None:
        return "None"
    return kind if dtype is None else f"{kind} of the dtype {dtype}"
