"""The scope in which a model's layers see one set of weights per task."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from collections.abc import Sequence
from collections.abc import Set

import keras
import tensorflow as tf

_ACTIVE = threading.local()


def active_scope() -> TaskScope | None:
    """Returns the innermost `TaskScope` of this thread, or `None`."""
    return getattr(_ACTIVE, "scope", None)


class StrayRead(Exception):
    """A layer read an adapted weight that it does not own."""


class TaskScope(keras.StatelessScope):
    """Gives adapted weights a leading task axis while layers are called.

    The scope holds everything that a layer may see or change during a
    task-batched call. Layers never learn of it: the hooks that
    `TaskBatched` puts on them look it up and compute by a layer rule.

    Args:
        tasks: Number of tasks merged into the batch axis, int or scalar
            tensor.
        weights: Maps `id(variable)` to a tensor of shape
            `[tasks, *variable.shape]` (with `single`, of `variable.shape`).
        state: Values of the model's non-trainable variables, as pairs
            `(variable, tensor)`.
        training: Whether layers run in training mode.
        statistics: Where batch normalization takes its statistics from:
            `"batch"` (of this call, per task), `"running"` (moving averages,
            updated while training), or a dict from `id(layer)` to recorded
            `(mean, variance)` pairs in order of use.
        per_task: `id(layer)` of the layers that take the per-task fallback.
        single: The scope is that of one task inside the per-task fallback:
            weights come without a task axis and every read is allowed.
    """

    def __init__(
        self,
        *,
        tasks: int | tf.Tensor,
        weights: Mapping[int, tf.Tensor],
        state: Sequence[tuple[keras.Variable, tf.Tensor]],
        training: bool,
        statistics: str | dict[int, list[tuple[tf.Tensor, tf.Tensor]]],
        per_task: Set[int] = frozenset(),
        single: bool = False,
    ):
        super().__init__(state_mapping=state, initialize_variables=False)
        self.tasks = tasks
        self.weights = weights
        self.training = training
        self.statistics = statistics
        self.per_task = per_task
        self.single = single
        self.recorded: dict[int, list[tuple[tf.Tensor, tf.Tensor]]] = {}
        self.callers: list[keras.Layer] = []
        self.stray: tuple[keras.Layer, keras.Variable] | None = None
        self._outer: list[TaskScope | None] = []

    def __enter__(self) -> TaskScope:
        self._outer.append(active_scope())
        _ACTIVE.scope = self
        return super().__enter__()

    def __exit__(self, *args):
        _ACTIVE.scope = self._outer.pop()
        return super().__exit__(*args)

    def is_adapted(self, variable: keras.Variable) -> bool:
        """Returns whether each task has its own value of `variable`."""
        return id(variable) in self.weights

    def weight(self, variable: keras.Variable) -> tf.Tensor:
        """Returns the values of an adapted weight, `[tasks, *shape]`.

        The value has the dtype in which the calling layer computes. A weight
        that does not adapt comes with a task axis of size 1.
        """
        if not self.is_adapted(variable):
            return tf.convert_to_tensor(variable)[tf.newaxis]
        value = variable._maybe_autocast(self.weights[id(variable)])
        return value[tf.newaxis] if self.single else value

    def get_current_value(self, variable: keras.Variable) -> tf.Tensor | None:
        """Returns the value that a layer sees when it reads `variable`."""
        if self.is_adapted(variable):
            if not self.single:
                self._refuse(variable)
            return self.weights[id(variable)]
        return super().get_current_value(variable)

    def add_update(self, update: tuple[keras.Variable, tf.Tensor]):
        """Keeps an assignment made by a layer out of the variable itself."""
        if self.is_adapted(update[0]):
            self._refuse(update[0])
        super().add_update(update)

    def next_statistics(
        self, layer: keras.Layer
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the recorded statistics for this use of `layer`."""
        uses = self.recorded.setdefault(id(layer), [])
        pair = self.statistics[id(layer)][len(uses)]
        uses.append(pair)
        return pair

    def record_statistics(
        self, layer: keras.Layer, mean: tf.Tensor, variance: tf.Tensor
    ):
        """Keeps per-task statistics, each `[tasks, channels]`."""
        self.recorded.setdefault(id(layer), []).append((mean, variance))

    def _refuse(self, variable: keras.Variable):
        caller = self.callers[-1] if self.callers else None
        self.stray = (caller, variable)
        raise StrayRead(variable.path)
