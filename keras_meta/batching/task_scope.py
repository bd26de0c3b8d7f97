"""The scope in which a model's layers see one set of weights per task."""

from __future__ import annotations

import contextlib
import inspect
import threading
import typing
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from collections.abc import Set

import keras
import tensorflow as tf

from keras_meta._keras import as_it_is
from keras_meta._keras import is_recording_stopped

if typing.TYPE_CHECKING:
    from keras_meta.batching.shared_calls import SharedCalls

_ACTIVE = threading.local()
_REMATERIALIZED = (
    "The weight '{}' is read within keras.remat or tf.recompute_grad, where "
    "the weights of tasks have no gradient. Call the layer directly, as "
    "`checkpoint` saves memory in the inner loop. For plain training, make "
    "the layer within keras.RematScope, which has no effect in the inner loop."
)

_CALLED_DIRECTLY = (
    "The model calls the method `call` of layer '{}' directly. That would "
    "normalize with the statistics of all tasks together. Call the layer "
    "itself: `layer(x)` in place of `layer.call(x)`."
)


def active_scope() -> TaskScope | None:
    """Returns the innermost `TaskScope` of this thread, or `None`."""
    return getattr(_ACTIVE, "scope", None)


@contextlib.contextmanager
def outside() -> Iterator[None]:
    """Computes eagerly as outside of all scopes, and changes no variable."""
    inner = active_scope()
    _ACTIVE.scope = None
    try:
        with tf.init_scope(), keras.StatelessScope():
            yield
    finally:
        _ACTIVE.scope = inner


class StrayRead(Exception):
    """A layer read an adapted weight that it does not own."""


class LostGradient(Exception):
    """A layer read a weight where its gradient is not recorded.

    TensorFlow and Keras would wrap any other error in messages of their own.
    """


class TaskScope(keras.StatelessScope):
    """Gives adapted weights a leading task axis while layers are called.

    The scope holds everything that a layer may see or change during a
    task-batched call. Layers never learn of it: while it is active, Keras is
    told how to compute each layer that is called, see `layer_calls`.

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
        batch: Static size of the merged batch axis, if known.
        per_task: Maps `id(layer)` of each layer that takes the per-task
            fallback to adapted variables that it reads and does not own.
        second_order: Whether a second derivative will be taken.
        xla: Whether the call will be compiled by XLA.
        single: The scope is that of one task for which layers are called as
            they are: weights come without a task axis and every read is
            allowed.
        in_map: The scope is inside the `tf.map_fn` of the per-task fallback.
        withheld: `id(variable)` of adapted weights that this scope does not
            have; reading them is a stray read.
        shared: Keeps what layers return that compute the same in other
            calls too.
        averages: Maps `id(variable)` of moving averages to the layers that
            have them and are computed by a rule.
    """

    def __init__(
        self,
        *,
        tasks: int | tf.Tensor,
        weights: Mapping[int, tf.Tensor],
        state: Sequence[tuple[keras.Variable, tf.Tensor]],
        training: bool,
        statistics: str | dict[int, list[tuple[tf.Tensor, tf.Tensor]]],
        batch: int | None = None,
        per_task: Mapping[int, Sequence[keras.Variable]] | None = None,
        second_order: bool = False,
        xla: bool = False,
        single: bool = False,
        in_map: bool = False,
        withheld: Set[int] = frozenset(),
        shared: SharedCalls | None = None,
        averages: Mapping[int, keras.Layer] | None = None,
    ):
        super().__init__(
            state_mapping=state,
            collect_losses=True,
            initialize_variables=False,
        )
        self.tasks = tasks
        self.weights = dict(weights)
        self.training = training
        self.statistics = statistics
        self.batch = batch
        self.per_task = per_task or {}
        self.second_order = second_order
        self.xla = xla
        self.single = single
        self.in_map = in_map
        self.withheld = withheld
        self.shared = shared
        self.averages = averages or {}
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

    @property
    def is_xla_on_cpu(self) -> bool:
        """Whether XLA will compile a call for all tasks for the CPU."""
        if self.single or not self.xla:
            return False
        return not tf.config.list_logical_devices("GPU")

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
        self._require_gradient(variable)
        value = variable._maybe_autocast(self.weights[id(variable)])
        return value[tf.newaxis] if self.single else value

    def get_current_value(self, variable: keras.Variable) -> tf.Tensor | None:
        """Returns the value that a layer sees when it reads `variable`."""
        if id(variable) in self.withheld:
            self.refuse(variable)
        if self.is_adapted(variable):
            if not self.single:
                self.refuse(variable)
            self._require_gradient(variable)
            return self.weights[id(variable)]
        if id(variable) in self.averages:
            self._require_rule(self.averages[id(variable)])
        value = super().get_current_value(variable)
        if value is None and self.original_scope is not None:
            value = self.original_scope.get_current_value(variable)
            if value is not None and variable.trainable:
                self._require_gradient(variable)
        return value

    def _require_gradient(self, variable: keras.Variable) -> None:
        """Stops if the value of a weight would count as a constant.

        `tf.recompute_grad` differentiates by variables and arguments alone,
        and calls its function again outside of this scope.
        """
        if is_recording_stopped():
            message = _REMATERIALIZED.format(variable.path)
            raise as_it_is(LostGradient(message))

    def _require_rule(self, layer: keras.Layer) -> None:
        """Stops if a layer computes by its own code, not by its rule.

        `layer.call(x)` does not go through Keras's `Layer.__call__`, which is
        where the rule is chosen.
        """
        if any(layer is caller for caller in self.callers):
            return
        is_fixed = self.statistics == "running" and not self.training
        if layer.trainable and not is_fixed and _is_in_call_of(layer):
            raise as_it_is(ValueError(_CALLED_DIRECTLY.format(layer.name)))

    def add_update(self, update: tuple[keras.Variable, tf.Tensor]):
        """Keeps an assignment made by a layer out of the variable itself."""
        variable, value = update
        if not self.is_adapted(variable):
            super().add_update(update)
        elif self.single:
            self.weights[id(variable)] = value
        else:
            self.refuse(variable)

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

    def has_batch_axis(self, x) -> bool:
        """Whether `x` is a tensor whose first axis is the merged batch."""
        is_dense = isinstance(x, tf.Tensor)
        return is_dense and bool(x.shape.rank) and x.shape[0] == self.batch

    def refuse_unbatched(self, variable: keras.Variable):
        """Stops because a layer is called on inputs without a batch axis."""
        self.refuse(variable, self.callers[max(len(self.callers) - 2, 0)])

    def refuse(
        self, variable: keras.Variable, layer: keras.Layer | None = None
    ):
        """Stops the call because of a read that no rule covers.

        Args:
            variable: What was read.
            layer: The layer that must be called once per task instead; the
                innermost one being called by default.
        """
        if layer is None and self.callers:
            layer = self.callers[-1]
        self.stray = (layer, variable)
        raise StrayRead(variable.path)


def _is_in_call_of(layer: keras.Layer) -> bool:
    """Whether a layer's own `call` is being executed."""
    frame = inspect.currentframe()
    while frame is not None:
        is_call = frame.f_code.co_name == "call"
        if is_call and frame.f_locals.get("self") is layer:
            return True
        frame = frame.f_back
    return False
