"""Arrays that users give, as tensors."""

from __future__ import annotations

import numbers
from typing import Any

import keras
import numpy as np
import tensorflow as tf

_WAYS_OUT = {
    tf.RaggedTensor: "Pad it: `.to_tensor()`.",
    tf.SparseTensor: "Fill it in: `tf.sparse.to_dense(...)`.",
}


def as_tensors(inputs: dict[str, Any]) -> dict[str, Any]:
    """Returns the arrays of an episode as tensors.

    Args:
        inputs: Nested arrays by the name of the argument.

    Raises:
        TypeError: If one is not a dense array of what can be learned from.
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
    is_named = hasattr(value, "_make")
    return value._make(tensors) if is_named else type(value)(tensors)


def as_tensor(name: str, value: Any) -> tf.Tensor:
    """Returns an array as a tensor.

    Args:
        name: What errors call it.
        value: An array, a tensor or nested lists of numbers.

    Raises:
        TypeError: If it is not a dense array, or has strings for numbers.
    """
    if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
        raise TypeError(
            f"`{name}` must be a dense tensor. Received: a "
            f"{type(value).__name__} of the shape {value.shape}. "
            f"{_WAYS_OUT[type(value)]}"
        )
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


def _no_strings(name: str) -> str:
    way_out = (
        "Number the classes of each task from 0 on, by np.unique(labels, "
        "return_inverse=True)[1], for instance."
    )
    hint = way_out if name.endswith("_y") else "Pass an array of numbers."
    return f"`{name}` must be numbers. Received: strings. {hint}"


def check_arrays(name: str, value: Any) -> None:
    """Refuses arrays that Keras would refuse without saying which.

    Args:
        name: What errors call it.
        value: Nested arrays, such as `x` and `y` of `fit`.

    Raises:
        TypeError: If one holds Python objects or NumPy's strings.
        ValueError: If one is empty.
    """
    if isinstance(value, dict):
        for key, part in value.items():
            check_arrays(key, part)
        return
    if not isinstance(value, np.ndarray):
        return
    if value.dtype.kind == "U" and name.endswith("_x"):
        raise TypeError(
            f"`{name}` must not be an array of NumPy's strings, which Keras "
            "does not take. Pass tf.constant(...) of it."
        )
    if value.dtype.kind in "SU":
        raise TypeError(_no_strings(name))
    if value.dtype.kind == "O":
        raise TypeError(
            f"`{name}` must be an array of numbers. Received: an array of "
            "Python objects. Pad or crop examples of different sizes, and "
            "replace missing values by numbers."
        )
    if value.ndim and not len(value):
        raise ValueError(
            f"`{name}` must have at least one task (axis 0). Received: "
            f"{name}.shape={value.shape}"
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
