"""Sizes of recurrent networks."""

from __future__ import annotations

from collections.abc import Sequence

from keras_meta.checks import is_whole


def as_units(
    units: Sequence[int], layers: str, count: int | None = None
) -> list[int]:
    """Checks the units of several layers.

    Args:
        units: What was given for the argument `units`.
        layers: What has units, for the message.
        count: How many numbers there must be; `None` for any.

    Returns:
        The units, a list of int.

    Raises:
        ValueError: If they are no positive integers, or not so many.
    """
    is_list = isinstance(units, Sequence) or hasattr(units, "__array__")
    given = [*units] if is_list else []
    fits = len(given) == count if count else bool(given)
    if not fits or not all(is_whole(n) and n > 0 for n in given):
        raise ValueError(
            f"`units` must be {count or 'some'} positive integers, one for "
            f"each of {layers}. Received: units={units!r}"
        )
    return [int(n) for n in given]
