"""The exact fallback for layers without a rule: one call per task."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.batching.annotations import annotate
from keras_meta.batching.annotations import annotations
from keras_meta.batching.annotations import attach
from keras_meta.batching.annotations import detach
from keras_meta.batching.annotations import merge_tasks
from keras_meta.batching.task_scope import TaskScope

# An odd number near 2**31 times the golden section, which spreads the tasks'
# seeds over the whole range of int32.
_SEED_STRIDE = 0x4F1BBCDD
_SEED_RANGE = 2**31


def call_per_task(layer, call, scope: TaskScope, args, kwargs):
    """Calls `layer` once per task under `tf.map_fn`.

    Args:
        layer: The layer.
        call: Its original `call`.
        scope: The active scope. Its updates and recorded statistics receive
            those of the layer, and the means over tasks of losses it adds.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call. Tensors in both that have a
            batch axis are split into tasks.

    Returns:
        The layer's outputs, all tasks merged into the batch axis.
    """
    adapted = [v for v in layer.variables if scope.is_adapted(v)]
    adapted += scope.per_task[id(layer)]
    given = {id(v) for v in adapted}
    state = [
        v for v in layer.non_trainable_variables if not scope.is_adapted(v)
    ]
    flat = keras.tree.flatten((args, kwargs))
    batched = [i for i, x in enumerate(flat) if scope.has_batch_axis(x)]
    if not batched:
        scope.refuse_unbatched(adapted[0])
    norms = [
        sublayer
        for sublayer in layer._flatten_layers()
        if isinstance(sublayer, keras.layers.BatchNormalization)
    ]
    notes = [annotations(flat[i]) for i in batched]
    recorded = _recorded_slices(scope, norms)

    def call_one(elements):
        task, weights, inputs, kept, statistics = elements
        values = list(flat)
        for i, x, attributes in zip(batched, inputs, kept, strict=True):
            values[i] = annotate(x, attributes)
        inner = TaskScope(
            tasks=1,
            weights={id(v): w for v, w in zip(adapted, weights, strict=True)},
            state=[(v, _fold(scope, v, task)) for v in state],
            training=scope.training,
            statistics=_one_task(scope, norms, statistics),
            second_order=scope.second_order,
            xla=scope.xla,
            single=True,
            in_map=True,
            withheld=scope.weights.keys() - given,
            averages=scope.averages,
        )
        one_args, one_kwargs = keras.tree.pack_sequence_as(
            (args, kwargs), values
        )
        try:
            with inner:
                outputs = call(*one_args, **one_kwargs)
        except Exception:
            if inner.stray is not None:
                scope.stray = (layer, inner.stray[1])
            raise
        updates = [inner.get_current_value(v) for v in state]
        statistics = [inner.recorded.get(id(norm), []) for norm in norms]
        return (
            detach(outputs),
            updates,
            _drop_task_axis(statistics),
            inner.losses,
        )

    elements = (
        tf.range(scope.tasks),
        [scope.weights[id(v)] for v in adapted],
        [task_axis.split(flat[i], scope.tasks) for i in batched],
        keras.tree.map_structure(
            lambda note: task_axis.split(note, scope.tasks), notes
        ),
        recorded,
    )
    outputs, updates, statistics, losses = _map(call_one, elements)
    scope.losses.extend(tf.reduce_mean(loss, axis=0) for loss in losses)
    for variable, values in zip(state, updates, strict=True):
        scope.add_update((variable, _merge_updates(scope, variable, values)))
    for norm, pairs in zip(norms, statistics, strict=True):
        for mean, variance in pairs:
            scope.record_statistics(norm, mean, variance)
    return keras.tree.map_structure(merge_tasks, attach(*outputs))


def _map(function, elements):
    """`tf.map_fn` that finds the structure of the outputs by itself."""
    specs = keras.tree.map_structure(
        lambda x: tf.TensorSpec(x.shape[1:], x.dtype), elements
    )
    traced = tf.function(function, autograph=False).get_concrete_function(specs)
    tasks = elements[0].shape[0]
    if tasks is not None and _reads_tables(traced):
        return _lay_out(function, elements, tasks)
    signature = keras.tree.map_structure(
        lambda x: tf.TensorSpec(x.shape, x.dtype), traced.structured_outputs
    )
    return tf.map_fn(function, elements, fn_output_signature=signature)


def _reads_tables(traced) -> bool:
    """Whether a function looks something up in a table.

    TensorFlow cannot take second derivatives of a loop that does.
    """
    definition = traced.graph.as_graph_def()
    nodes = [*definition.node]
    for body in definition.library.function:
        nodes.extend(body.node_def)
    return any(node.op.startswith("LookupTable") for node in nodes)


def _lay_out(function, elements, tasks: int):
    """Calls a function for one task after another, without a loop."""
    flat = [tf.unstack(x, tasks) for x in keras.tree.flatten(elements)]
    outputs = [
        function(keras.tree.pack_sequence_as(elements, one))
        for one in zip(*flat, strict=True)
    ]
    return keras.tree.map_structure(lambda *y: tf.stack(y), *outputs)


def _recorded_slices(scope, norms):
    if not isinstance(scope.statistics, dict):
        return []
    return [list(scope.statistics.get(id(norm), [])) for norm in norms]


def _one_task(scope, norms, statistics):
    if not isinstance(scope.statistics, dict):
        return scope.statistics
    return {
        id(norm): [(mean[tf.newaxis], var[tf.newaxis]) for mean, var in pairs]
        for norm, pairs in zip(norms, statistics, strict=True)
    }


def _drop_task_axis(statistics):
    return [
        [(mean[0], variance[0]) for mean, variance in pairs]
        for pairs in statistics
    ]


def _fold(scope: TaskScope, variable, task: tf.Tensor) -> tf.Tensor:
    """Returns the task's value of a state; random seeds differ by task."""
    value = scope.get_current_value(variable)
    if not is_seed(variable):
        return value
    stride = (tf.cast(task, tf.int64) + 1) * _SEED_STRIDE % _SEED_RANGE
    return value + tf.cast(tf.stack([stride, 0]), value.dtype)


def _merge_updates(scope: TaskScope, variable, values: tf.Tensor) -> tf.Tensor:
    """Returns one new value of a state from those of all tasks."""
    if is_seed(variable):
        kept = scope.get_current_value(variable)
        return tf.stack([kept[0], values[0][1]])
    if variable.dtype.startswith(("float", "bfloat")):
        return tf.reduce_mean(values, axis=0)
    return values[0]


def is_seed(variable: keras.Variable) -> bool:
    """Returns whether a variable is the state of random numbers."""
    return variable.path.endswith("seed_generator_state")
