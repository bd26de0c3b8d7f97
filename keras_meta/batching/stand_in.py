"""Objects that differ from another by some attributes."""

from __future__ import annotations

import types
from typing import Any
from typing import TypeVar

T = TypeVar("T")


def stand_in(original: T, **attributes: Any) -> T:
    """Returns an object that is like another but for some attributes.

    It shares all others with the original, and what its methods set is set
    there too. So code can be run that sees other values, while the original
    shows nothing of it, to other threads neither.

    Args:
        original: An object that keeps its attributes in a `__dict__`.
        **attributes: Values that only the stand-in has.
    """
    # Properties come before what the shared `__dict__` holds.
    properties = {
        name: property(lambda self, value=value: value)
        for name, value in attributes.items()
    }
    kind = types.new_class(
        type(original).__name__,
        (type(original),),
        exec_body=lambda body: body.update(properties),
    )
    made = object.__new__(kind)
    object.__setattr__(made, "__dict__", vars(original))
    return made
