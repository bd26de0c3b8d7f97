"""Who looks at a health: the host after a step, or the call itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from keras_meta.execution.health import Health
from keras_meta.execution.plan import PerThread
from keras_meta.inner.class_numbers import LabelRule


class Watch:
    """Knows whether the host looks at a health after what it calls.

    Args:
        health: The health.
        plan: How each thread carries calls out.
    """

    def __init__(self, health: Health, plan: PerThread):
        self._health = health
        self._plan = plan
        self._watchers = 0

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Tells that the host looks at the health afterwards."""
        # Replicas are traced in threads of their own, which have no plan.
        self._watchers += 1
        try:
            with self._plan.changing(watched=True):
                yield
        finally:
            self._watchers -= 1

    def reported(
        self,
        function: Callable[[Any], Any],
        inputs: Any,
        check: Callable[[tf.Tensor], None],
        rule: Callable[[], LabelRule | None],
        is_distributed: bool,
    ) -> Any:
        """Calls a function, and checks what it reports unless the host will.

        In a graph of the user's own nobody looks, and a failure that is kept
        would be taken for one of a later step. The graph goes on with what
        is not finite, which shows. That a label was replaced would not.

        Args:
            function: A function of `inputs`.
            inputs: See `Learner.call`.
            check: Raises if a report, its value, holds a failure.
            rule: Returns what the labels of support sets must be.
            is_distributed: Whether replicas may share the work.

        Returns:
            What `function` returns.
        """
        is_eager = tf.executing_eagerly()
        is_watched = self._is_active(is_distributed) and not is_eager
        if self._health.is_collecting or is_watched:
            return function(inputs)
        with self._health.collecting() as report:
            outputs = function(inputs)
        if not is_eager:
            return report.without_wrong_labels(outputs, rule())
        check(report.value)
        return outputs

    def _is_active(self, is_distributed: bool) -> bool:
        return (
            self._watchers > 0 if is_distributed else self._plan.value.watched
        )
