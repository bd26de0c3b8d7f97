"""Layers that compute the same in every step are called once.

If only some layers adapt, as in ANIL, the others see the same support set in
every step of an inner loop. What they return is kept, so that later steps go
on from there. More than the forward pass is saved: the gradients of all steps
add up at that tensor and go back through those layers once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching.task_scope import TaskScope


@dataclasses.dataclass(frozen=True)
class _Result:
    """What a layer returned, and the statistics it recorded on the way.

    It holds the state that the layer saw, whose identity is in the key.
    """

    outputs: Any
    state: list[tf.Tensor]
    recorded: dict[int, list]


class SharedCalls:
    """Keeps the results of layers that do not adapt.

    A result is kept for calls with the same arguments and the same state, if
    the call changed nothing: no moving average, no state of a random
    generator, no added loss.

    Args:
        inputs: The model's inputs in every step, nested tensors. Calls with
            other inputs share nothing.
    """

    def __init__(self, inputs: Any):
        self._inputs = keras.tree.flatten(inputs)
        self._place = _place()
        self._arguments: tuple | None = None
        self._known: dict[int, tf.Tensor] = {}
        self._results: dict[tuple, _Result] = {}

    def is_for(self, inputs: Any) -> bool:
        """Whether a call of the model shares results."""
        flat = keras.tree.flatten(inputs)
        return all(x is y for x, y in zip(flat, self._inputs, strict=True))

    def call(
        self,
        compute: Callable,
        layer: keras.Layer,
        scope: TaskScope,
        args: tuple,
        kwargs: dict,
    ) -> Any:
        """Returns what a layer returns, computed now or before."""
        if len(scope.callers) == 1:
            # The model merges and casts its inputs anew in every call.
            args, kwargs = self._first_arguments(args, kwargs)
        key = self._key(layer, scope, args, kwargs)
        if key is None:
            return compute(args, kwargs)
        if key not in self._results:
            return self._compute(key, compute, layer, scope, args, kwargs)
        result = self._results[key]
        for i, pairs in result.recorded.items():
            scope.recorded.setdefault(i, []).extend(pairs)
        return result.outputs

    def _compute(self, key, compute, layer, scope: TaskScope, args, kwargs):
        """Calls a layer, and keeps what it returns if it changed nothing."""
        state = _state(layer, scope)
        before = _traces(scope)
        uses = {i: len(pairs) for i, pairs in scope.recorded.items()}
        outputs = compute(args, kwargs)
        if _place() is self._place and _traces(scope) == before:
            recorded = {
                i: pairs[uses.get(i, 0) :]
                for i, pairs in scope.recorded.items()
            }
            self._results[key] = _Result(outputs, state, recorded)
            self._know(outputs)
        return outputs

    def _first_arguments(self, args, kwargs):
        if self._arguments is None:
            if _place() is not self._place:
                return args, kwargs
            self._arguments = args, kwargs
            self._know((args, kwargs))
        return self._arguments

    def _know(self, values) -> None:
        for x in keras.tree.flatten(values):
            if tf.is_tensor(x):
                self._known[id(x)] = x

    def _key(self, layer, scope: TaskScope, args, kwargs) -> tuple | None:
        """Returns what a result depends on, or `None` if it is not kept."""
        values = []
        for x in keras.tree.flatten((args, sorted(kwargs.items()))):
            if tf.is_tensor(x):
                if id(x) not in self._known:
                    return None
                values.append(id(x))
            elif x is None or isinstance(x, (bool, int, float, str)):
                values.append(x)
            else:
                return None
        if any(id(x) in scope.per_task for x in layer._flatten_layers()):
            return None
        if any(map(scope.is_adapted, layer.variables)):
            return None
        state = map(id, _state(layer, scope))
        return (id(layer), *values, *state)


def _state(layer: keras.Layer, scope: TaskScope) -> list[tf.Tensor]:
    """Returns the state that a layer sees, which other layers may change."""
    variables = layer.non_trainable_variables
    return [scope.get_current_value(v) for v in variables]


def _place() -> tf.Graph | None:
    """Returns the graph that is being built; its tensors stay in there."""
    if tf.executing_eagerly():
        return None
    return tf.compat.v1.get_default_graph()


def _traces(scope: TaskScope) -> list[int]:
    """Returns what differs if a call has changed something."""
    return [len(scope.losses), *map(id, scope.state_mapping.values())]
