"""Rules of `Dense`, `EinsumDense`, `Embedding` and `PReLU`."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.batching.layer_rules.registry import rule
from keras_meta.batching.task_scope import TaskScope


def activate(layer: keras.Layer, x: tf.Tensor) -> tf.Tensor:
    """Applies the layer's activation function, if it has one."""
    return x if layer.activation is None else layer.activation(x)


def broadcast_weight(weight: tf.Tensor, rank: int) -> tf.Tensor:
    """Reshapes `[tasks, *shape]` to broadcast against rank-`rank` outputs.

    The outputs are `[tasks, n, ...]`; the weight's own axes align with their
    last ones.
    """
    tasks = task_axis.size(weight, 0)
    shape = weight.shape.as_list()[1:]
    return tf.reshape(weight, [tasks, *[1] * (rank - 1 - len(shape)), *shape])


@rule(keras.layers.Dense)
def dense(layer, scope: TaskScope, inputs, training=None):
    """One batched matrix product: `[tasks, rows, in] @ [tasks, in, out]`."""
    if scope.is_adapted(layer._kernel):
        x = task_axis.split(inputs, scope.tasks)
        rows = tf.reshape(x, [scope.tasks, -1, x.shape[-1]])
        # Counts of words are integers, which Keras's product converts.
        y = keras.ops.matmul(rows, scope.weight(layer._kernel))
    else:
        y = keras.ops.matmul(inputs, layer.kernel)
        y = tf.reshape(y, [scope.tasks, -1, y.shape[-1]])
    if layer.bias is not None:
        y += broadcast_weight(scope.weight(layer.bias), 3)
    lead = [task_axis.size(inputs, i) for i in range(inputs.shape.rank - 1)]
    return activate(layer, tf.reshape(y, [*lead, y.shape[-1]]))


@rule(keras.layers.EinsumDense)
def einsum_dense(layer, scope: TaskScope, inputs, training=None):
    """The layer's own contraction with a task index on every term."""
    x = task_axis.split(inputs, scope.tasks)
    if scope.is_adapted(layer._kernel):
        y = _task_einsum(layer.equation, x, scope.weight(layer._kernel))
    else:
        y = keras.ops.einsum(layer.equation, inputs, layer.kernel)
        y = task_axis.split(y, scope.tasks)
    if layer.bias is not None:
        y += broadcast_weight(scope.weight(layer.bias), y.shape.rank)
    return activate(layer, task_axis.merge(y))


def _task_einsum(equation: str, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    equation = equation.replace(" ", "")
    task = next(c for c in "TUVWXYZtuvwxyz" if c not in equation)
    terms, result = equation.split("->")
    left, right = terms.split(",")
    equation = f"{task}{left},{task}{right}->{task}{result}"
    return keras.ops.einsum(equation, x, kernel)


@rule(keras.layers.Embedding)
def embedding(layer, scope: TaskScope, inputs):
    """A row lookup in each task's own table."""
    ids = task_axis.split(tf.cast(inputs, tf.int32), scope.tasks)
    table = scope.weight(layer._embeddings)
    rows = tf.gather(table, ids, batch_dims=1)
    return tf.cast(task_axis.merge(rows), layer.compute_dtype)


@rule(keras.layers.PReLU)
def prelu(layer, scope: TaskScope, inputs):
    """The layer's formula with each task's own slopes."""
    x = task_axis.split(inputs, scope.tasks)
    slope = broadcast_weight(scope.weight(layer.alpha), x.shape.rank)
    return task_axis.merge(tf.nn.relu(x) - slope * tf.nn.relu(-x))
