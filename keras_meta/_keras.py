"""Private names of Keras and TensorFlow, all in one place.

Checked with Keras 3.15.1 and TensorFlow 2.21.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras.src.backend.common.global_state import get_global_attribute
from keras.src.backend.common.keras_tensor import any_symbolic_tensors
from keras.src.backend.tensorflow.layer import TFLayer
from keras.src.models.functional import Functional
from keras.src.saving.serialization_lib import ObjectSharingScope
from keras.src.saving.serialization_lib import get_shared_object
from keras.src.saving.serialization_lib import (
    record_object_after_deserialization,
)
from keras.src.trainers.trainer import model_supports_jit
from keras.src.utils.traceback_utils import inject_argument_info_in_traceback
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import record
from tensorflow.python.framework import op_def_registry
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_util

__all__ = [
    "as_it_is",
    "called_graphs",
    "dispatch_layer_calls",
    "FUSED_BIDIRECTIONAL",
    "Functional",
    "give_gradient",
    "is_compiled",
    "is_differentiable",
    "is_made_of_layers",
    "is_recorded",
    "is_recording_stopped",
    "is_rematerialized",
    "is_sharing_objects",
    "is_stateful",
    "is_traced_for_xla",
    "loss_weights",
    "model_supports_jit",
    "ObjectSharingScope",
    "raises_as_is",
    "shared_object",
    "step_counter",
]

# Methods of `keras.layers.Bidirectional` that decide whether cuDNN computes
# both of its layers at once.
FUSED_BIDIRECTIONAL = ("_can_attempt_fused_lstm", "_can_attempt_fused_gru")


def is_differentiable(operation_type: str) -> bool | None:
    """Whether TensorFlow differentiates operations of a type.

    Returns:
        `False` if their derivative counts as zero, and `None` if TensorFlow
        knows no derivative and fails where it needs one.
    """
    try:
        return ops.gradient_registry.lookup(operation_type) is not None
    except LookupError:
        return None


def give_gradient(
    operation_type: str, gradient: Callable, *, replace: bool = False
) -> None:
    """Registers the gradient of operations of a type with TensorFlow.

    Args:
        operation_type: The type. It may be registered as not differentiable,
            which is then no longer so.
        gradient: See `tf.RegisterGradient`.
        replace: Whether to replace a gradient that TensorFlow has. Else it is
            kept.
    """
    known = is_differentiable(operation_type)
    if known and not replace:
        return
    if known is not None:
        del ops.gradient_registry._registry[operation_type]
    tf.RegisterGradient(operation_type)(gradient)


def called_graphs(operation: tf.Operation) -> list[tf.Graph]:
    """Returns the graphs of the functions that an operation calls."""
    called = []
    for attribute in _function_attributes(operation.type):
        value = operation.get_attr(attribute)
        called += value if isinstance(value, list) else [value]
    functions = [operation.graph._get_function(f.name) for f in called]
    return [f.graph for f in functions if f is not None]


@functools.cache
def _function_attributes(operation_type: str) -> list[str]:
    definition = op_def_registry.get(operation_type)
    if definition is None:
        return []
    types = ("func", "list(func)")
    return [a.name for a in definition.attr if a.type in types]


def is_compiled(operation: tf.Operation) -> bool:
    """Whether XLA compiles the function that an operation calls."""
    try:
        return operation.get_attr("_XlaMustCompile")
    except ValueError:
        return False


def is_recording_stopped() -> bool:
    """Whether no gradient tape of this thread records, for the moment.

    So it is while `tf.recompute_grad`, or `keras.remat`, calls its function.
    """
    return pywrap_tfe.TFE_Py_TapeSetIsStopped()


def is_recorded(tensor: tf.Tensor) -> bool:
    """Whether a gradient tape of this thread records what comes of a tensor.

    Args:
        tensor: A tensor, of any graph around or of none.
    """
    return tensor.dtype.is_floating and record.should_record_backprop([tensor])


def is_rematerialized(operation: tf.Operation) -> bool:
    """Whether an operation stands for a call by `tf.recompute_grad`."""
    if operation.type != "IdentityN":
        return False
    try:
        name = operation.get_attr("_gradient_op_type").decode()
    except ValueError:
        return False
    # The gradient that a custom one is registered by calls the function that
    # was given, through another one.
    gradient = ops.gradient_registry.lookup(name)
    for captured in ("tape_grad_fn", "grad_fn"):
        gradient = _captured(gradient, captured)
    return getattr(gradient, "__qualname__", "").startswith("recompute_grad.")


def _captured(function: Callable | None, name: str) -> Callable | None:
    """Returns what a function has of a name from around it, if anything."""
    code = getattr(function, "__code__", None)
    if code is None or name not in code.co_freevars:
        return None
    return function.__closure__[code.co_freevars.index(name)].cell_contents


def is_stateful(operation_type: str) -> bool:
    """Whether operations of a type change a state or draw from one."""
    definition = op_def_registry.get(operation_type)
    return definition is not None and definition.is_stateful


def loss_weights(model: keras.Model) -> Any:
    """Returns the `loss_weights` that a model was compiled with."""
    return getattr(model._compile_loss, "_user_loss_weights", None)


def step_counter(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """Returns what counts the steps of an optimizer, each one.

    `iterations` counts only those that change weights, if gradients are
    accumulated.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return inner._iterations


def is_traced_for_xla() -> bool:
    """Whether a caller's `tf.function(jit_compile=True)` is being traced."""
    if tf.executing_eagerly():
        return False
    graph = tf.compat.v1.get_default_graph()
    return control_flow_util.GraphOrParentsInXlaContext(graph)


def is_sharing_objects() -> bool:
    """Whether Keras is writing or reading a whole model.

    Configs may say then which objects are the same one.
    """
    return get_global_attribute("shared_objects/id_to_obj_map") is not None


def shared_object(key: Any, make: Callable[[], Any]) -> Any:
    """Returns the object of a key, and makes it where it comes first.

    Keras does the same for the objects that it deserializes, but loses those
    that are nested in the configs of others: it marks the first config where
    it sees the object again, and by then has copied that config.

    Args:
        key: What all configs of the object hold.
        make: Returns the object.
    """
    known = get_shared_object(key)
    if known is None:
        known = make()
        record_object_after_deserialization(known, key)
    return known


def raises_as_is(call: Callable) -> Callable:
    """Makes Keras pass on errors of a layer's `call` as they were raised.

    Keras puts what its message calls "Arguments received" around an error,
    once, and marks it. What a layer within raised is marked already, so it
    still names that layer.

    Args:
        call: The method of a layer.

    Returns:
        The method, whose errors are marked.
    """

    @functools.wraps(call)
    def marked(*args, **kwargs):
        try:
            return call(*args, **kwargs)
        except Exception as error:
            as_it_is(error)
            raise

    return marked


def as_it_is(error: Exception) -> Exception:
    """Marks an error of a layer, so that Keras passes it on unchanged."""
    error._keras_call_info_injected = True
    return error


def dispatch_layer_calls(
    choose: Callable[[keras.Layer], Callable | None],
) -> None:
    """Lets a function choose what computes the outputs of layers.

    `keras.Layer.__call__` converts the inputs, builds the layer, and handles
    masks and regularizers. To compute the outputs it calls
    `super().__call__`, which is that of `keras.Operation` and calls the
    layer's `call`. This puts another `__call__` between the two, into the
    base class that layers have for TensorFlow, which has none. So no layer is
    changed, and no method of Keras is replaced.

    Args:
        choose: Called with the layer in every call of any layer. Returns what
            is called in place of the layer's `call`, without
            rematerialization, or `None` for no change.
    """

    def next_call(layer: keras.Layer) -> Callable:
        plain = super(TFLayer, layer).__call__
        compute = choose(layer)
        if compute is None:
            return plain

        def call(*args, **kwargs):
            if any_symbolic_tensors(args, kwargs):
                return plain(*args, **kwargs)
            name = f"{type(layer).__name__}.call()"
            told = inject_argument_info_in_traceback(compute, name)
            return told(*args, **kwargs)

        return call

    # Unlike a method, a property adds no frame to tracebacks of plain calls.
    TFLayer.__call__ = property(next_call)


def is_made_of_layers(model: Any) -> bool:
    """Whether a model is sequential or functional, so Keras knows its layers.

    `keras.models.clone_model` takes such models alone.
    """
    return isinstance(model, (keras.Sequential, Functional))
