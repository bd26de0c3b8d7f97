"""How a learner's call is executed: a plan for each thread."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a call of a learner is executed.

    Attributes:
        xla: Whether XLA compiles the call, if `compile` asks for XLA.
        one_by_one: Whether to process tasks one after another.
        keras_compiles: Whether Keras compiles the whole step, if `compile`
            asks for XLA. Otherwise, the step decides what XLA compiles.
        watched: Whether the host checks the health afterwards.
        exporting: Whether the graph is for a SavedModel.
    """

    xla: bool = True
    one_by_one: bool = False
    keras_compiles: bool = True
    watched: bool = False
    exporting: bool = False


class PerThread:
    """A value that a thread can replace temporarily for itself alone.

    A step runs through methods of Keras and of the user, such as `test_step`,
    `call` and `compute_loss`, which cannot pass a plan on as an argument.

    Args:
        default: The value in threads that have not replaced it.

    Example:
    >>> plan = PerThread(Plan())
    >>> with plan.using(Plan(xla=False)):
    ...     plan.value.xla
    False
    >>> plan.value.xla
    True
    """

    def __init__(self, default: Any):
        self._default = default
        self._local = threading.local()

    @property
    def value(self) -> Any:
        """The value in this thread."""
        return getattr(self._local, "value", self._default)

    @contextlib.contextmanager
    def using(self, value: Any) -> Iterator[Any]:
        """Replaces the value in this thread, and yields the new one."""
        before = self.value
        self._local.value = value
        try:
            yield value
        finally:
            self._local.value = before

    def changing(self, **changes: Any) -> contextlib.AbstractContextManager:
        """Replaces fields of a dataclass value; see `using`."""
        return self.using(dataclasses.replace(self.value, **changes))
