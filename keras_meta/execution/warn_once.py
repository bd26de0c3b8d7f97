"""Warnings of what training logs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any


class WarnOnce:
    """Warns of the logs of training, at most once."""

    def __init__(self):
        self._has_warned = False

    def around(
        self,
        function: Callable[[Any], Any],
        names: Collection[str],
        message_of: Callable[[Mapping[str, float]], str | None],
    ) -> Callable[[Any], Any]:
        """Makes a training function warn.

        Args:
            function: Maps an iterator to logs.
            names: Names of the logs to look at; without any, nothing changes.
            message_of: Maps them to the warning, or to `None`.
        """
        if not names:
            return function

        def call_and_warn(iterator):
            logs = function(iterator)
            if not self._has_warned:
                found = {name: float(logs[name]) for name in names}
                message = message_of(found)
                if message is not None:
                    self._has_warned = True
                    warnings.warn(message, stacklevel=2)
            return logs

        return call_and_warn
