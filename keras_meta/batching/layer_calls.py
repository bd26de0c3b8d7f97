"""What computes a layer during a task-batched call.

A task-batched call must not change the model's layers, even temporarily:
other threads may call, copy or save them at the same time. So nothing is
stored in a layer. A function that chooses what computes a layer is registered
with Keras once for the whole process. It looks at the `TaskScope` of its own
thread, and without one each layer computes as usual.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras

from keras_meta._keras import FUSED_BIDIRECTIONAL
from keras_meta._keras import dispatch_layer_calls
from keras_meta.batching.batch_axis import with_batch_size
from keras_meta.batching.fallback import call_per_task
from keras_meta.batching.layer_rules import find_rule
from keras_meta.batching.stand_in import stand_in
from keras_meta.batching.task_scope import TaskScope
from keras_meta.batching.task_scope import active_scope


def own_variables(layer: keras.Layer) -> list[keras.Variable]:
    """Returns the variables of a layer that none of its sublayers has."""
    inherited = {
        id(v)
        for sublayer in layer._flatten_layers(
            include_self=False, recursive=False
        )
        for v in sublayer.variables
    }
    return [v for v in layer.variables if id(v) not in inherited]


def _choose(layer: keras.Layer) -> Callable | None:
    """Returns what computes a layer now, or `None` for its own `call`."""
    scope = active_scope()
    if scope is None:
        return None
    # Keras's error messages list arguments by the names that `call` has.
    return functools.wraps(layer.call)(
        functools.partial(_compute, layer, scope)
    )


def _compute(layer: keras.Layer, scope: TaskScope, *args, **kwargs) -> Any:
    """Returns what a layer returns in a task-batched call."""
    scope.callers.append(layer)
    try:
        compute = functools.partial(_dispatch, layer, scope)
        if scope.shared is None:
            return compute(args, kwargs)
        return scope.shared.call(compute, layer, scope, args, kwargs)
    finally:
        scope.callers.pop()


def _dispatch(layer: keras.Layer, scope: TaskScope, args, kwargs) -> Any:
    if not scope.single and id(layer) in scope.per_task:
        plain = _plain_call(layer, scope)
        outputs = call_per_task(layer, plain, scope, args, kwargs)
        return with_batch_size(outputs, plain, scope, (args, kwargs))
    rule = find_rule(layer)
    adapted = [v for v in own_variables(layer) if scope.is_adapted(v)]
    if scope.single:
        adapted = []
    needed = adapted or (
        rule and (rule.always or (rule.in_xla and scope.is_xla_on_cpu))
    )
    if rule is None or not needed:
        plain = _plain_call(layer, scope)
        outputs = plain(*args, **kwargs)
        return with_batch_size(outputs, plain, scope, (args, kwargs))
    if adapted and not scope.has_batch_axis(args[0]):
        scope.refuse_unbatched(adapted[0])
    return rule.compute(layer, scope, *args, **kwargs)


def _plain_call(layer: keras.Layer, scope: TaskScope) -> Callable:
    """Returns the layer's own code, without rematerialization.

    What TensorFlow recomputes has no second derivative, and it would be
    recomputed without the weights of the tasks.
    """
    seen = layer
    if isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional)):
        if any(map(scope.is_adapted, layer.variables)):
            seen = _without_cudnn(layer)
    elif type(layer) is keras.layers.TimeDistributed:
        # It calls `layer.call`, for which Keras does not ask `_choose`.
        inner = layer.layer
        inner = stand_in(inner, call=functools.partial(_call_inner, inner))
        seen = stand_in(layer, layer=inner)
    quantized = getattr(layer, "quantization_mode", None) is not None
    return seen.quantized_call if quantized else seen.call


def _call_inner(layer: keras.Layer, *args, **kwargs) -> Any:
    compute = _choose(layer) or layer.call
    return compute(*args, **kwargs)


def _without_cudnn(layer: keras.Layer) -> keras.Layer:
    """Returns a stand-in for a recurrent layer that does not use cuDNN.

    cuDNN has no second derivative. Keras decides by an attribute of the
    layer, which must not change because other threads read it too.
    """
    if isinstance(layer, keras.layers.Bidirectional):
        # It may compute both of its layers at once, without calling them.
        return stand_in(layer, **dict.fromkeys(FUSED_BIDIRECTIONAL, _never))
    if getattr(layer, "use_cudnn", False) == "auto":
        return stand_in(layer, use_cudnn=False)
    return layer


def _never(*args, **kwargs) -> bool:
    return False


dispatch_layer_calls(_choose)
