"""Objects that share all but a few attributes with another."""

from __future__ import annotations

import types
from typing import Any
from typing import TypeVar

T = TypeVar("T")


def stand_in(original: T, **attributes: Any) -> T:
    """Returns an object that equals another except for some attributes.

    All other attributes are shared: what a method of the stand-in sets is set
    on the original. So the original's code can be run with other values while
    the original stays as it is, also for other threads.

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
