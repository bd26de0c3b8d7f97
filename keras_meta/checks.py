"""Checks of arguments that several parts of the package share."""

from __future__ import annotations

import numbers


def is_whole(value: object) -> bool:
    """Whether a value is an integer, of Python or NumPy; no truth value is.

    Example:
    >>> is_whole(3), is_whole(3.0), is_whole(True)
    (True, False, False)
    """
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a value is a real number, of Python or NumPy.

    Example:
    >>> is_number(0.1), is_number("0.1"), is_number(True)
    (True, False, False)
    """
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_positive(**sizes: int) -> None:
    """Requires positive whole numbers.

    Args:
        **sizes: Values by the name of their argument.

    Raises:
        ValueError: If one is no integer or is below 1.

    Example:
    >>> check_positive(ways=5, shots=1)
    """
    for name, value in sizes.items():
        if not is_whole(value) or value < 1:
            raise ValueError(
                f"`{name}` must be a positive integer, got {value!r}."
            )


def check_whole(**values: int) -> None:
    """Requires whole numbers.

    Args:
        **values: Values by the name of their argument.

    Raises:
        ValueError: If one is no integer.

    Example:
    >>> check_whole(seed=-1)
    """
    for name, value in values.items():
        if not is_whole(value):
            raise ValueError(f"`{name}` must be an integer, got {value!r}.")


def check_not_negative(**values: int) -> None:
    """Requires whole numbers of at least 0.

    Args:
        **values: Values by the name of their argument.

    Raises:
        ValueError: If one is no integer or is below 0.

    Example:
    >>> check_not_negative(start=100)
    """
    for name, value in values.items():
        if not is_whole(value) or value < 0:
            raise ValueError(
                f"`{name}` must be an integer of at least 0, got {value!r}."
            )


def check_positive_number(**values: float) -> None:
    """Requires numbers above 0.

    Args:
        **values: Values by the name of their argument.

    Raises:
        ValueError: If one is no number or is not above 0.

    Example:
    >>> check_positive_number(epsilon=1e-7)
    """
    for name, value in values.items():
        if not is_number(value) or not value > 0:
            raise ValueError(
                f"`{name}` must be a positive number. Received: "
                f"{name}={value!r}"
            )


def check_decay(**values: float) -> None:
    """Requires numbers of at least 0 and below 1.

    Args:
        **values: Values by the name of their argument.

    Raises:
        ValueError: If one is no number or out of range.

    Example:
    >>> check_decay(momentum=0.9)
    """
    for name, value in values.items():
        if not is_number(value) or not 0 <= value < 1:
            raise ValueError(
                f"`{name}` must be a number in [0, 1). Received: "
                f"{name}={value!r}"
            )


def check_seed(seed: int | None) -> None:
    """Requires an integer or `None`, which draws other numbers each time.

    Args:
        seed: What was given for the argument `seed`.

    Raises:
        ValueError: If it is neither.

    Example:
    >>> check_seed(None)
    """
    if seed is not None and not is_whole(seed):
        raise ValueError(
            f"`seed` must be an integer or None. Received: seed={seed!r}"
        )


def check_choice(name: str, value: object, choices: tuple) -> None:
    """Requires one of a few values.

    Args:
        name: Name of the argument.
        value: What was given.
        choices: What is allowed.

    Raises:
        ValueError: If `value` is none of `choices`.

    Example:
    >>> check_choice("on", "both", ("support", "query", "both"))
    """
    if value not in choices:
        allowed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {allowed}, got {value!r}.")
