"""Refuses operations whose second derivative TensorFlow gets wrong.

Several kinds are known. `tf.nn.moments` hides its mean from differentiation.
Max pooling is wrong under XLA. The cross-entropy of logits leaves out how its
gradient depends on the labels. And there are gradient operations that have no
derivative, or one that TensorFlow takes for zero; `missing_gradients` supplies
some of them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta._keras import called_graphs
from keras_meta._keras import is_compiled
from keras_meta._keras import is_differentiable
from keras_meta.unroll import missing_gradients  # noqa: F401 registers them

# They have a derivative that always fails.
_FAILING = ("PreventGradient", "QuantizeAndDequantizeV4Grad")
# These are differentiated by differentiating the function that they call.
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_MAX_POOLS = ("MaxPool", "MaxPoolV2", "MaxPool3D")


@contextlib.contextmanager
def refuse_wrong_derivatives(
    active: bool, xla: bool, layers: Collection[keras.Layer] = ()
):
    """Checks the operations that a block of code adds to a graph.

    It finds `tf.nn.moments` (also as `keras.ops.moments`), whose second
    derivative is wrong everywhere, and max pooling, whose second derivative
    is wrong under XLA. Keras's own layers are computed by rules that avoid
    both, so these are a user's direct calls.

    Args:
        active: Whether a second derivative will be taken.
        xla: Whether the block will be compiled by XLA.
        layers: The model's layers, to name the one that makes the call.

    Raises:
        ValueError: If such an operation was added.
    """
    if not active or tf.executing_eagerly():
        yield
        return
    before = len(_operations())
    yield
    for place, operation, compiled in _with_called(_operations()[before:], xla):
        message = None
        if _hides_mean(operation):
            message = _MOMENTS
        elif compiled and operation.type in _MAX_POOLS:
            message = _MAX_POOL
        if message is not None:
            where = _where(place, layers)
            raise ValueError(message.format(where, operation.name))


def differentiate(
    function: Callable[[], tuple[tf.Tensor, Any]],
    weights: Sequence[tf.Tensor],
    *,
    again: bool,
    layers: Collection[keras.Layer] = (),
) -> tuple[list[tf.Tensor], Any]:
    """Returns gradients, after checking that they can be differentiated.

    Operations can be checked in a graph only.

    Args:
        function: Returns the tensor to differentiate, and anything else.
        weights: What to differentiate by.
        again: Whether the gradients will be differentiated.
        layers: The model's layers, to name the one at fault.

    Returns:
        The gradients, zero for weights without an influence, and what else
        `function` returned.

    Raises:
        ValueError: If an operation has no derivative, or no right second
            derivative where one will be taken.
    """
    checked = again and not tf.executing_eagerly()
    start = len(_operations()) if checked else 0
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(weights)
        target, others = function()
    middle = len(_operations()) if checked else 0
    try:
        gradients = tape.gradient(
            target,
            weights,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
    except LookupError as error:
        operation_type = _missing_type(error)
        if operation_type is None:
            raise
        raise ValueError(_NO_DERIVATIVE.format(operation_type)) from error
    if checked:
        operations = _operations()
        _refuse_learned_labels(operations[start:middle], weights, layers)
        _refuse_last_derivatives(operations[middle:], gradients, layers)
    return gradients, others


def _refuse_learned_labels(operations, weights, layers) -> None:
    for operation in operations:
        if operation.type != "SoftmaxCrossEntropyWithLogits":
            continue
        _, labels = operation.inputs
        if _depends(labels, weights):
            where = _where(operation, layers)
            raise ValueError(_LABELS.format(where, operation.name))


def _refuse_last_derivatives(operations, gradients, layers) -> None:
    for place, operation_type in _last_derivatives(operations, gradients):
        where = _where(place, layers)
        raise ValueError(
            _NO_SECOND_DERIVATIVE.format(where, operation_type, place.name)
        )


def _last_derivatives(
    operations: Iterable[tf.Operation], targets: Any
) -> Iterator[tuple[tf.Operation, str]]:
    """Finds operations behind `targets` that cannot be differentiated.

    Yields:
        The operation, and its type or that of one in a function it calls.
    """
    names = {operation.name for operation in operations}
    for operation in _behind(
        tf.nest.flatten(targets, expand_composites=True),
        lambda operation: operation.name in names,
    ):
        if _is_last(operation.type):
            yield operation, operation.type
        for graph in called_graphs(operation):
            inner = _last_derivatives(graph.get_operations(), graph.outputs)
            for _, operation_type in inner:
                yield operation, operation_type


def _is_last(operation_type: str) -> bool:
    if operation_type in _CALLS:
        return False
    if operation_type in _FAILING:
        return True
    has_gradient = is_differentiable(operation_type)
    if has_gradient is False:
        # That is right for shapes and signs. Gradients are not constant.
        is_gradient = re.search(r"Grad(ient)?(V\d+)?$", operation_type)
        return bool(is_gradient) and "TensorArray" not in operation_type
    return has_gradient is None


def _depends(tensor: tf.Tensor, weights: Iterable[tf.Tensor]) -> bool:
    def is_smooth(operation):
        return is_differentiable(operation.type) is not False

    names = {w.name for w in weights}
    behind = _behind([tensor], is_smooth)
    return tensor.name in names or any(
        x.name in names for operation in behind for x in operation.inputs
    )


def _behind(
    tensors: Iterable[tf.Tensor], within: Callable[[tf.Operation], bool]
) -> Iterator[tf.Operation]:
    """Yields operations by whose inputs tensors may be differentiated."""
    seen = set()
    waiting = [x.op for x in tensors]
    while waiting:
        operation = waiting.pop()
        if operation.name in seen or not within(operation):
            continue
        seen.add(operation.name)
        inputs = [x for x in operation.inputs if _is_smooth(x.dtype)]
        if inputs:
            yield operation
        waiting += [x.op for x in inputs]


def _is_smooth(dtype: tf.DType) -> bool:
    return dtype.is_floating or dtype.is_complex or dtype == tf.variant


def _with_called(
    operations: Iterable[tf.Operation], xla: bool
) -> Iterator[tuple[tf.Operation, tf.Operation, bool]]:
    """Yields operations and those of all functions that they call.

    Yields:
        The operation among `operations`, the operation itself, and whether
        XLA compiles it.
    """
    for operation in operations:
        yield operation, operation, xla
        for graph in called_graphs(operation):
            compiled = xla or is_compiled(operation)
            for _, inner, inner_compiled in _with_called(
                graph.get_operations(), compiled
            ):
                yield operation, inner, inner_compiled


def _operations() -> list[tf.Operation]:
    return tf.compat.v1.get_default_graph().get_operations()


def _hides_mean(operation: tf.Operation) -> bool:
    in_moments = re.search(r"(^|/)moments(_\d+)?/", operation.name)
    return operation.type == "StopGradient" and in_moments is not None


def _where(operation: tf.Operation, layers: Iterable[keras.Layer]) -> str:
    """Says which layer an operation is in, as far as its name tells."""
    scopes = operation.name.split("/")[:-1]
    for scope in reversed(scopes):
        for layer in layers:
            if re.fullmatch(re.escape(layer.name) + r"(_\d+)?", scope):
                return f"Layer '{layer.name}'"
    return "The model or its loss"


def _missing_type(error: LookupError) -> str | None:
    """Returns the type of the operation that has no derivative."""
    found = re.search(r"(?:no entry for|op type): (\w+)", str(error))
    return found and found[1]


_OR_FIRST_ORDER = (
    "first_order=True (for an OptimizerLearner, second_order=False)."
)
_MOMENTS = (
    "{} calls tf.nn.moments or keras.ops.moments directly ({}). Its second "
    "derivative is wrong in TensorFlow, so the meta-gradient would be wrong "
    "too. Compute `variance = ops.mean(ops.square(x - mean))` instead, use a "
    "Keras normalization layer, or pass " + _OR_FIRST_ORDER
)
_MAX_POOL = (
    "{} calls a max-pooling operation directly ({}). Its second derivative "
    "is wrong under XLA, so the meta-gradient would be wrong. Use a "
    "keras.layers.MaxPooling layer, compile(jit_compile=False), or "
    + _OR_FIRST_ORDER
)
_LABELS = (
    "{} takes the cross-entropy of logits with labels that depend on the "
    "adapted weights ({}). TensorFlow leaves the labels out of its second "
    "derivative, so the meta-gradient would be wrong. Compute "
    "`-ops.sum(labels * ops.log_softmax(logits), -1)` instead, stop the "
    "gradient of the labels, or pass " + _OR_FIRST_ORDER
)
_NO_DERIVATIVE = (
    "The model or its loss uses an operation that has no derivative in "
    "TensorFlow: {}. No layer before it can be adapted. Compute the same by "
    "other operations, or adapt only layers behind it."
)
_NO_SECOND_DERIVATIVE = (
    "{} uses an operation that has no second derivative in TensorFlow: its "
    "gradient, {} ({}), cannot be differentiated, as the meta-gradient needs. "
    "Compute the same by other operations, or pass " + _OR_FIRST_ORDER
)
