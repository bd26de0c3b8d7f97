"""Refuses operations whose second derivative is wrong in TensorFlow.

Several kinds are known. `tf.nn.moments` hides its mean from differentiation.
`tf.recompute_grad` has no second derivative. Max pooling is wrong under XLA.
`tf.nn.ctc_loss` gives NaN. Finally, some gradient operations have no
derivative, or one that TensorFlow treats as zero; `missing_gradients` supplies
some of these.
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
from keras_meta._keras import is_rematerialized
from keras_meta.kernels import missing_gradients  # noqa: F401 registers them

# Their registered derivative always fails.
_FAILING = ("PreventGradient", "QuantizeAndDequantizeV4Grad")
# TensorFlow differentiates the function that these call.
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_MAX_POOLS = ("MaxPool", "MaxPoolV2", "MaxPool3D")


@contextlib.contextmanager
def refuse_wrong_derivatives(
    active: bool, xla: bool, layers: Collection[keras.Layer] = ()
):
    """Checks the operations that a block of code adds to a graph.

    Finds `tf.nn.moments` (also as `keras.ops.moments`), whose second
    derivative is always wrong, and max pooling, whose second derivative is
    wrong under XLA. Keras's own layers are computed by rules that avoid both,
    so what is found are a user's direct calls.

    Args:
        active: Whether a second derivative will be taken.
        xla: Whether XLA will compile the block.
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
    required: bool = False,
    layers: Collection[keras.Layer] = (),
) -> tuple[list[tf.Tensor], Any]:
    """Returns gradients, after checking that they can be differentiated.

    Operations can be checked only in a graph.

    Args:
        function: Returns the tensor to differentiate, and anything else.
        weights: Tensors to differentiate with respect to.
        again: Whether the gradients will be differentiated.
        required: Whether the tensor must depend on at least one weight.
        layers: The model's layers, to name the one at fault.

    Returns:
        The gradients, and the rest of what `function` returned. Weights that
        the tensor does not depend on have zero gradients.

    Raises:
        ValueError: If an operation has no derivative, if a second derivative
            is needed and not available or wrong, or if the tensor depends on
            no weight although `required`.
    """
    start = len(_operations())
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(weights)
        target, others = function()
    forward = _operations()[start:]
    try:
        gradients = tape.gradient(target, weights)
    except LookupError as error:
        operation_type = _missing_type(error)
        if operation_type is None:
            raise
        where = _where_is(operation_type, forward, layers)
        message = _NO_DERIVATIVE.format(where, operation_type)
        raise ValueError(message) from error
    if required and all(gradient is None for gradient in gradients):
        raise ValueError(_CONSTANT)
    gradients = [
        tf.zeros_like(weight) if gradient is None else gradient
        for gradient, weight in zip(gradients, weights, strict=True)
    ]
    if again and not tf.executing_eagerly():
        backward = _operations()[start + len(forward) :]
        _refuse_wrong_losses(forward, layers)
        _refuse_rematerialization(forward, weights, layers)
        _refuse_last_derivatives(forward, backward, gradients, layers)
    return gradients, others


def _refuse_wrong_losses(operations, layers) -> None:
    for operation in operations:
        if re.search(r"(^|/)ctc_loss_dense(_\d+)?/", operation.name):
            where = _where(operation, layers)
            raise ValueError(_CTC.format(where, operation.name))


def _refuse_rematerialization(operations, weights, layers) -> None:
    for place, operation, _ in _with_called(operations, False):
        if not is_rematerialized(operation):
            continue
        # Inside a called function, the weights cannot be traced.
        called = operation is not place
        if called or any(_depends(x, weights) for x in operation.inputs):
            where = _where(place, layers)
            raise ValueError(_REMATERIALIZED.format(where, operation.name))


def _refuse_last_derivatives(forward, backward, gradients, layers) -> None:
    for place, operation_type in _last_derivatives(backward, gradients):
        where = _where(_origin(place, forward), layers)
        raise ValueError(
            _NO_SECOND_DERIVATIVE.format(where, operation_type, place.name)
        )


def _origin(
    operation: tf.Operation, forward: Iterable[tf.Operation]
) -> tf.Operation:
    """Finds the operation that a gradient operation belongs to.

    TensorFlow names gradients after their operations, except those of
    functions and of `tf.custom_gradient`.
    """

    def is_named(operation):
        return operation.name.startswith("gradient_tape/")

    names = {x.name for x in forward}
    waiting = [] if is_named(operation) else [operation]
    for nearest in waiting:
        if nearest.name in names:
            return nearest
        before = [x.op for x in nearest.inputs]
        waiting += [x for x in before if x not in waiting and not is_named(x)]
    return operation


def _last_derivatives(
    operations: Iterable[tf.Operation], targets: Any
) -> Iterator[tuple[tf.Operation, str]]:
    """Finds operations behind `targets` that cannot be differentiated.

    Yields:
        The operation, and its type or the type of an operation in a function
        that it calls.
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
        # A zero derivative is right for shapes and signs, not for gradients.
        is_gradient = re.search(r"Grad(ient)?(V\d+)?$", operation_type)
        is_meant = operation_type.startswith(("StopGradient", "TensorArray"))
        return bool(is_gradient) and not is_meant
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
    """Yields the operations that a derivative of the tensors passes through."""
    seen = set()
    waiting = [x.op for x in tensors if _is_smooth(x.dtype)]
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
    """Yields operations, and those in all functions that they call.

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
    """Returns the operations of the current graph; none when eager."""
    if tf.executing_eagerly():
        return []
    return tf.compat.v1.get_default_graph().get_operations()


def _hides_mean(operation: tf.Operation) -> bool:
    in_moments = re.search(r"(^|/)moments(_\d+)?/", operation.name)
    return operation.type == "StopGradient" and in_moments is not None


def _where(operation: tf.Operation, layers: Iterable[keras.Layer]) -> str:
    """Names the layer that contains an operation, judging by its name."""
    scopes = operation.name.split("/")[:-1]
    for scope in reversed(scopes):
        for layer in layers:
            if re.fullmatch(re.escape(layer.name) + r"(_\d+)?", scope):
                return f"Layer '{layer.name}'"
    return "The model or its loss"


def _where_is(
    operation_type: str,
    operations: Iterable[tf.Operation],
    layers: Iterable[keras.Layer],
) -> str:
    """Names the layer that contains an operation of a type."""
    for place, operation, _ in _with_called(operations, False):
        if operation.type == operation_type:
            return _where(place, layers)
    return "The model or its loss"


def _missing_type(error: LookupError) -> str | None:
    """Returns the type of the operation that has no derivative."""
    found = re.search(r"(?:no entry for|op type): (\w+)", str(error))
    return found and found[1]


_OR_FIRST_ORDER = 'meta_gradient="first_order".'

_CONSTANT = (
    "The inner loss must depend on the adapted weights. Received: a loss "
    "without a gradient, such as a constant or a function of the labels "
    "alone. Compute it from `y_pred` with differentiable operations, and adapt "
    "layers that `y_pred` depends on."
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
    "keras.layers.MaxPooling or AdaptiveMaxPooling layer, "
    "compile(jit_compile=False), or " + _OR_FIRST_ORDER
)
_CTC = (
    "{} calls tf.nn.ctc_loss or keras.ops.ctc_loss ({}). TensorFlow cannot "
    "differentiate it twice, as the meta-gradient requires. Use another loss, "
    "or pass " + _OR_FIRST_ORDER
)
_REMATERIALIZED = (
    "{} uses keras.remat or tf.recompute_grad ({}). TensorFlow cannot "
    "differentiate it twice, as the meta-gradient requires. Call the function "
    "directly, as `checkpoint` saves memory in the inner loop, or pass "
    + _OR_FIRST_ORDER
)
_NO_DERIVATIVE = (
    "{} uses an operation that has no derivative in TensorFlow: {}. No layer "
    "before it can be adapted. Use other operations to compute the same, or "
    "adapt only layers after it."
)
_NO_SECOND_DERIVATIVE = (
    "{} uses an operation that has no second derivative in TensorFlow: its "
    "gradient, {} ({}), cannot be differentiated, as the meta-gradient "
    "requires. Use other operations to compute the same, or pass "
    + _OR_FIRST_ORDER
)
