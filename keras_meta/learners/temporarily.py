"""Attributes that have another value for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def temporarily(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Gives an attribute another value, and its own one back at the end.

    Args:
        owner: What has the attribute.
        name: Its name.
        value: Its value meanwhile.
    """
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
