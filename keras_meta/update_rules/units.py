"""Sizes of the layers of recurrent networks."""

from __future__ import annotations

from collections.abc import Sequence

from keras_meta.checks import describe
from keras_meta.episodes.arguments import as_integers


def as_units(
    units: Sequence[int], layers: str, count: int | None = None
) -> list[int]:
    """Checks the units of several layers.

    Args:
        units: The argument `units`.
        layers: The layers that have units, for the message.
        count: Required length of `units`; `None` for any.

    Returns:
        The units, a list of integers.

    Raises:
        ValueError: If `units` are not positive integers, or there are not
            `count` of them.
    """
    try:
        given = as_integers("units", units)
    except ValueError:
        given = []
    fits = len(given) == count if count else bool(given)
    if not fits or not all(0 < n < 2**31 for n in given):
        raise ValueError(
            f"`units` must be {count or 'some'} positive integers below "
            f"2**31, one for each of {layers}. Received: "
            f"units={describe(units)}"
        )
    return given
