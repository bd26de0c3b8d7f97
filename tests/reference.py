"""The plain per-task loop, which every task-batched result must equal."""

from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from hypothesis import settings

from keras_meta.batching.task_batched import TaskBatched

few = settings(max_examples=4, deadline=None, derandomize=True, database=None)


def _moments(x, axes, keepdims):
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean((x - mean) ** 2, axes, keepdims=keepdims)
    return tf.reduce_mean(x, axes, keepdims=keepdims), variance


def exact_moments():
    """Gives Keras moments without TensorFlow's hidden stop_gradient."""
    return mock.patch(
        "keras.src.backend.tensorflow.nn._compute_moments", _moments
    )


def normal(shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape))


def one_layer(layer, shape, **kwargs):
    return keras.Sequential([keras.Input(shape, **kwargs), layer])


def stacked(variables, tasks, seed=1):
    """Random values of the variables for each task."""
    return [
        normal([tasks, *v.shape], seed + i) for i, v in enumerate(variables)
    ]


def randomize(variables, seed=5):
    """Gives non-trainable floats (moving averages) values above zero."""
    rng = np.random.default_rng(seed)
    for variable in variables:
        if variable.dtype == "float64":
            variable.assign(rng.uniform(0.5, 2.0, variable.shape))


def state_of(model):
    return [tf.identity(v.value) for v in model.non_trainable_variables]


def call_alone(model, adapted, weights, state, inputs, training=False):
    """Calls a model for one task; returns outputs and the new state."""
    pairs = [
        *zip(adapted, weights, strict=True),
        *zip(model.non_trainable_variables, state, strict=True),
    ]
    with exact_moments(), keras.StatelessScope(pairs) as scope:
        outputs = model(inputs, training=training)
    return outputs, [
        scope.get_current_value(v) for v in model.non_trainable_variables
    ]


def call_in_loop(model, adapted, weights, state, inputs, training=False):
    """Calls a model task by task; returns stacked outputs and states."""
    tasks = keras.tree.flatten(inputs)[0].shape[0]
    results = [
        call_alone(
            model,
            adapted,
            [w[task] for w in weights],
            state,
            keras.tree.map_structure(lambda x, task=task: x[task], inputs),
            training,
        )
        for task in range(tasks)
    ]
    return keras.tree.map_structure(lambda *y: tf.stack(y), *results)


def derivatives(function, values, order=2):
    """Returns outputs, gradients and second derivatives of a random loss.

    The second derivatives are those of the gradients' products with random
    vectors.
    """
    with tf.GradientTape() as outer:
        outer.watch(values)
        with tf.GradientTape() as inner:
            inner.watch(values)
            outputs = keras.tree.flatten(function(values))
            loss = tf.add_n(
                [
                    tf.reduce_sum(normal(y.shape, 100 + i) * tf.sin(y))
                    for i, y in enumerate(outputs)
                ]
            )
        first = inner.gradient(loss, values, unconnected_gradients="zero")
        if order == 1:
            return outputs, first
        along = tf.add_n(
            [
                tf.reduce_sum(normal(g.shape, 200 + i) * g)
                for i, g in enumerate(first)
            ]
        )
    second = outer.gradient(along, values, unconnected_gradients="zero")
    return outputs, first, second


def assert_close(actual, expected, tolerance=1e-9):
    actual = [np.asarray(x) for x in keras.tree.flatten(actual)]
    expected = [np.asarray(x) for x in keras.tree.flatten(expected)]
    assert [x.shape for x in actual] == [x.shape for x in expected]
    for x, y in zip(actual, expected, strict=True):
        scale = max(1.0, np.abs(y).max(initial=0.0))
        np.testing.assert_allclose(x, y, rtol=0, atol=tolerance * scale)


def assert_equals_loop(
    model,
    inputs,
    *,
    adapted=None,
    training=False,
    reference_training=None,
    statistics="batch",
    twin=None,
    in_graph=False,
    seed=1,
):
    """Checks values, first and second derivatives against the loop.

    Args:
        model: The model.
        inputs: Its inputs, each `[tasks, n, ...]`. Derivatives are taken by
            the floats among them and by all per-task weights.
        adapted: The adapted variables; the trainable ones by default.
        training: Whether the task-batched call trains.
        reference_training: Whether the loop's does; as `training` by default.
        statistics: See `TaskBatched`.
        twin: A model that the loop calls instead.
        in_graph: Whether the task-batched side is traced.
        seed: Seed of the per-task weights.

    Returns:
        The `TaskBatched`.
    """
    tasks = keras.tree.flatten(inputs)[0].shape[0]
    reference = twin or model
    index = None if adapted is None else _positions(model, adapted)
    adapted = model.trainable_variables if adapted is None else adapted
    batched = TaskBatched(model, adapted)
    if index is None:
        twins = reference.trainable_variables
    else:
        twins = [reference.trainable_variables[i] for i in index]
    weights = stacked(adapted, tasks, seed)
    flat = keras.tree.flatten(inputs)
    floats = [i for i, x in enumerate(flat) if x.dtype.is_floating]
    state = state_of(model)
    if reference_training is None:
        reference_training = training

    def unpack(values):
        weights, rest = values[: len(adapted)], values[len(adapted) :]
        full = list(flat)
        for i, x in zip(floats, rest, strict=True):
            full[i] = x
        return weights, keras.tree.pack_sequence_as(inputs, full)

    def task_batched(values):
        weights, inputs = unpack(values)
        return batched(
            weights, state, inputs, training=training, statistics=statistics
        ).outputs

    def loop(values):
        weights, inputs = unpack(values)
        return call_in_loop(
            reference, twins, weights, state, inputs, reference_training
        )[0]

    values = [*weights, *(flat[i] for i in floats)]
    run = tf.function(derivatives, autograph=False) if in_graph else derivatives
    actual = run(task_batched, values)
    expected = derivatives(loop, values)
    assert any(np.any(x != 0) for x in expected[2])
    for x, y in zip(actual, expected, strict=True):
        assert_close(x, y)
    return batched


def _positions(model, adapted):
    ids = [id(v) for v in model.trainable_variables]
    return [ids.index(id(v)) for v in adapted]
