"""Functions that are compiled once for each of their settings."""

from __future__ import annotations

import threading
from collections.abc import Callable
from collections.abc import Hashable
from typing import Any


class CompiledFunctions:
    """Keeps functions as long as what they were compiled for is the same.

    Threads may ask for functions at the same time.

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
        """Returns a function, made now or before.

        Args:
            owner: All functions are forgotten when it is another object than
                in the last call.
            key: The settings of the function.
            make: Makes the function.
        """
        with self._lock:
            if owner is not self._owner:
                self._owner, self._functions = owner, {}
            if key not in self._functions:
                self._functions[key] = make()
            return self._functions[key]
