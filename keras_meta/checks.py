"""Checks of arguments that several parts of the package share."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np

# Most characters of a value that an error shows.
_LONGEST = 200
# Larger numbers are infinite in float32.
_LARGEST = float(np.finfo(np.float32).max)
# Keras takes 64-bit seeds, and several are counted up from one.
_SEEDS = 2**62
_IN_FLOAT32 = "in float32 (at most 3.4e38)"


def is_whole(value: object) -> bool:
    """Whether a value is a Python or NumPy integer, and not a bool.

    Example:
    >>> is_whole(3), is_whole(3.0), is_whole(True)
    (True, False, False)
    """
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value is a real number of Python or NumPy, and not a bool.

    Example:
    >>> is_number(0.1), is_number("0.1"), is_number(True)
    (True, False, False)
    """
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def is_finite_number(value: Any) -> bool:
    """Whether a value is a real number that is finite in float32.

    Example:
    >>> is_finite_number(0.1), is_finite_number(1e300)
    (True, False)
    """
    try:
        return is_number(value) and abs(float(value)) <= _LARGEST
    except OverflowError:
        # The integer is larger than any float.
        return False


def is_bool(value: object) -> bool:
    """Whether a value is a Python or NumPy bool.

    Example:
    >>> is_bool(True), is_bool(1), is_bool("False")
    (True, False, False)
    """
    return isinstance(value, (bool, np.bool_))


def check_bool(**values: bool) -> None:
    """Requires bools. A string such as `"False"` would count as true.

    Args:
        **values: Values by argument name.

    Raises:
        ValueError: If a value is neither `True` nor `False`.

    Example:
    >>> check_bool(nesterov=False)
    """
    _check(values, is_bool, "True or False")


def check_positive(**sizes: int) -> None:
    """Requires positive integers that can be the length of an axis.

    Args:
        **sizes: Values by argument name.

    Raises:
        ValueError: If a value is not an integer from 1 to 2**31 - 1.

    Example:
    >>> check_positive(ways=5, shots=1)
    """
    _check(sizes, lambda x: is_whole(x) and x > 0, "a positive integer")
    _check(sizes, lambda x: x < 2**31, "below 2**31")


def check_whole(**values: int) -> None:
    """Requires integers.

    Args:
        **values: Values by argument name.

    Raises:
        ValueError: If a value is not an integer.

    Example:
    >>> check_whole(seed=-1)
    """
    _check(values, is_whole, "an integer")


def check_at_least(least: int, /, **values: int) -> None:
    """Requires integers of at least a bound.

    Args:
        least: The bound.
        **values: Values by argument name.

    Raises:
        ValueError: If a value is not an integer, or is below `least`.

    Example:
    >>> check_at_least(0, start=100)
    """
    _check(
        values,
        lambda x: is_whole(x) and x >= least,
        f"an integer of at least {least}",
    )


def check_between(least: int, most: int, /, **values: int) -> None:
    """Requires integers between two bounds, inclusive.

    Args:
        least: The lower bound.
        most: The upper bound.
        **values: Values by argument name.

    Raises:
        ValueError: If a value is not an integer, or is out of bounds.

    Example:
    >>> check_between(2, 127, time_scales=4)
    """
    _check(
        values,
        lambda x: is_whole(x) and least <= x <= most,
        f"an integer from {least} to {most}",
    )


def check_finite_number(**values: float) -> None:
    """Requires numbers that are finite in float32.

    Args:
        **values: Values by argument name.

    Raises:
        ValueError: If a value is not a number, or is not finite.

    Example:
    >>> check_finite_number(learning_rate=0.1)
    """
    _check(values, is_finite_number, f"a finite number {_IN_FLOAT32}")


def check_positive_number(**values: float) -> None:
    """Requires finite numbers above 0.

    Args:
        **values: Values by argument name.

    Raises:
        ValueError: If a value is not a finite number, or is not above 0.

    Example:
    >>> check_positive_number(epsilon=1e-7)
    """
    _check(
        values,
        lambda x: is_finite_number(x) and x > 0,
        f"a positive number, and finite {_IN_FLOAT32}",
    )


def check_number_at_least(least: float, /, **values: float) -> None:
    """Requires finite numbers of at least a bound.

    Args:
        least: The bound.
        **values: Values by argument name.

    Raises:
        ValueError: If a value is not a finite number, or is below `least`.

    Example:
    >>> check_number_at_least(0, weight_decay=0.0)
    """
    _check(
        values,
        lambda x: is_finite_number(x) and x >= least,
        f"a finite number {_IN_FLOAT32}, of at least {least}",
    )


def check_finite_values(**arrays: Any) -> None:
    """Requires arrays of numbers without NaN or infinity.

    Args:
        **arrays: Arrays by argument name.

    Raises:
        ValueError: If an array has an entry that is not finite.

    Example:
    >>> check_finite_values(images=np.zeros([2, 28, 28]))
    """
    for name, array in arrays.items():
        array = np.asarray(array)
        if array.dtype.kind not in "fc" or np.isfinite(array).all():
            continue
        where = tuple(map(int, np.argwhere(~np.isfinite(array))[0]))
        raise ValueError(
            f"`{name}` must be finite. Received: {array[where]} at index "
            f"{list(where)}. Remove or replace such entries first."
        )


def check_decay(**values: float) -> None:
    """Requires numbers of at least 0 and below 1.

    Args:
        **values: Values by argument name.

    Raises:
        ValueError: If a value is not a number, or is out of range.

    Example:
    >>> check_decay(momentum=0.9)
    """
    _check(values, lambda x: is_number(x) and 0 <= x < 1, "a number in [0, 1)")


def as_seed(seed: int | None) -> int | None:
    """Returns a seed for Keras, which refuses NumPy integers.

    Args:
        seed: The argument `seed`: an integer, or `None` to draw different
            numbers each time.

    Returns:
        A Python integer, or `None`.

    Raises:
        ValueError: If `seed` is neither, or is too large for Keras.

    Example:
    >>> as_seed(7)
    7
    """
    if seed is None:
        return None
    _check({"seed": seed}, is_whole, "an integer or None")
    _check(
        {"seed": seed},
        lambda x: -_SEEDS <= x < _SEEDS,
        "an integer of at most 62 bits",
    )
    return int(seed)


def check_choice(name: str, value: object, choices: tuple) -> None:
    """Requires one of a few values.

    Args:
        name: Name of the argument.
        value: The value.
        choices: The allowed values.

    Raises:
        ValueError: If `value` is not one of `choices`.

    Example:
    >>> check_choice("on", "both", ("support", "query", "both"))
    """
    allowed = ", ".join(repr(choice) for choice in choices)
    _check({name: value}, lambda x: _is_in(x, choices), f"one of {allowed}")


def _check(
    values: Mapping[str, object],
    is_fine: Callable[[Any], bool],
    expected: str,
) -> None:
    """Requires a property of arguments; the error shows the value received."""
    for name, value in values.items():
        if not is_fine(value):
            raise ValueError(
                f"`{name}` must be {expected}. Received: "
                f"{name}={describe(value)}"
            )


def _is_in(value: object, choices: tuple) -> bool:
    try:
        hash(value)
    except TypeError:
        # Comparing an array or a tensor does not give a truth value.
        return False
    return value in choices


def check_int64(**values: int) -> None:
    """Requires integers that fit into 64 bits.

    Args:
        **values: Values by argument name.

    Raises:
        ValueError: If a value is not an integer, or needs more bits.

    Example:
    >>> check_int64(seed=-1)
    """
    check_whole(**values)
    _check(values, lambda x: -(2**63) <= x < 2**63, "a 64-bit integer")


def describe(value: Any) -> str:
    """Describes a value in one short line, for errors.

    Args:
        value: Anything.

    Returns:
        The `repr`, truncated if it is long. For arrays and tensors, the shape
        and the type.

    Example:
    >>> describe("none"), describe(np.zeros([3, 2]))
    ("'none'", '<ndarray of shape (3, 2) and type float64>')
    """
    is_array = hasattr(value, "shape") and hasattr(value, "dtype")
    if is_array and not isinstance(value, type) and value.shape != ():
        name = getattr(value.dtype, "name", value.dtype)
        kind = type(value).__name__
        return f"<{kind} of shape {value.shape} and type {name}>"
    try:
        text = " ".join(repr(value).split())
    except Exception:
        # Python refuses to print integers with thousands of digits.
        text = f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
