"""Checks of arguments that several episode sources share."""

import numbers


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
        whole = isinstance(value, numbers.Integral)
        if isinstance(value, bool) or not whole or value < 1:
            raise ValueError(
                f"`{name}` must be a positive integer, got {value!r}."
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
