"""A cache of functions that are compiled once per setting."""

from __future__ import annotations

import threading
from collections.abc import Callable
from collections.abc import Hashable
from typing import Any


class CompiledFunctions:
    """Keeps functions for as long as their owner stays the same.

    Safe to use from several threads.

    Example:
    >>> functions = CompiledFunctions()
    >>> owner = object()
    >>> square = functions.get(owner, "square", lambda: lambda x: x * x)
    >>> square is functions.get(owner, "square", lambda: None)
    True
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._owner: Any = None
        self._functions: dict[Hashable, Callable] = {}

    def get(
        self, owner: Any, key: Hashable, make: Callable[[], Callable]
    ) -> Callable:
        """Returns the function for a key, making it if needed.

        Args:
            owner: The object that the functions were compiled for. If it is
                not the object of the last call, all functions are forgotten.
            key: The settings of the function.
            make: Makes the function.
        """
        with self._lock:
            if owner is not self._owner:
                self._owner, self._functions = owner, {}
            if key not in self._functions:
                self._functions[key] = make()
            return self._functions[key]
