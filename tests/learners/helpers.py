"""Small models, small tasks and an inner loop written out."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

ROOT = pathlib.Path(__file__).resolve().parents[2]
WAYS = 3


def mlp(outputs=1, inputs=2, width=4, activation="tanh") -> keras.Model:
    """A network of two layers without a zero weight."""
    return keras.Sequential(
        [
            keras.Input([inputs]),
            keras.layers.Dense(
                width, activation, bias_initializer="normal", name="body"
            ),
            keras.layers.Dense(outputs, bias_initializer="normal", name="head"),
        ]
    )


def convolutional_net(activation="softplus", pool="average") -> keras.Model:
    """A convolution, batch normalization, pooling and a linear layer."""
    layers = keras.layers
    pooling = {
        "average": layers.AveragePooling2D,
        "max": layers.MaxPooling2D,
    }
    return keras.Sequential(
        [
            keras.Input([6, 6, 1]),
            layers.Conv2D(2, 3, padding="same"),
            layers.BatchNormalization(momentum=0.5),
            layers.Activation(activation),
            pooling[pool](2),
            layers.Flatten(),
            layers.Dense(WAYS),
        ]
    )


def normalized_mlp(outputs=1) -> keras.Model:
    """A network with batch normalization."""
    return keras.Sequential(
        [
            keras.Input([2]),
            keras.layers.Dense(4),
            keras.layers.BatchNormalization(momentum=0.5, name="norm"),
            keras.layers.Activation("tanh"),
            keras.layers.Dense(outputs),
        ]
    )


def regression(
    batches=None, tasks=3, shots=5, queries=4, inputs=2, outputs=1, seed=0
):
    """Random linear tasks, `(x, query_y)` with a batch axis if asked for."""
    rng = np.random.default_rng(seed)
    lead = [tasks] if batches is None else [batches, tasks]
    dtype = keras.config.floatx()
    slope = rng.normal(size=[*lead, inputs, outputs])
    support = rng.normal(size=[*lead, shots, inputs])
    query = rng.normal(size=[*lead, queries, inputs])
    x = {
        "support_x": support.astype(dtype),
        "support_y": np.tanh(support @ slope).astype(dtype),
        "query_x": query.astype(dtype),
    }
    return x, np.tanh(query @ slope).astype(dtype)


def classification(batches=None, tasks=2, shots=2, shape=(2,), seed=0):
    """Random clusters, `shots` of each class, as many queries."""
    rng = np.random.default_rng(seed)
    lead = [tasks] if batches is None else [batches, tasks]
    labels = np.arange(shots * WAYS, dtype="int32") % WAYS
    labels = np.broadcast_to(labels, [*lead, shots * WAYS]).copy()
    centers = rng.normal(size=[*lead, WAYS, *shape])
    noise = rng.normal(size=[2, *lead, shots * WAYS, *shape])
    index = labels.reshape(*labels.shape, *[1] * len(shape))
    x = np.take_along_axis(centers, index, axis=len(lead)) + 0.3 * noise
    x = x.astype(keras.config.floatx())
    inputs = {"support_x": x[0], "support_y": labels, "query_x": x[1]}
    return inputs, labels.copy()


def dataset(data) -> tf.data.Dataset:
    """A data set of the batches of tasks."""
    return tf.data.Dataset.from_tensor_slices(data)


def batch(data, i: int):
    """One batch of tasks."""
    return keras.tree.map_structure(lambda a: a[i], data)


def crossentropy() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(learner, optimizer=None, loss="mse", jit_compile=False, **kwargs):
    """Compiles a learner; without XLA, which takes seconds to compile."""
    if optimizer is None:
        optimizer = keras.optimizers.SGD(0.1)
    learner.compile(optimizer, loss, jit_compile=jit_compile, **kwargs)
    return learner


def maml(**kwargs) -> keras_meta.MAML:
    """A compiled learner of a small network."""
    return compiled(keras_meta.MAML(mlp(), 0.1, **kwargs))


def refuses(error, match):
    """Expects an error whose message may have several lines."""
    return pytest.raises(error, match=f"(?s){match}")


def weights(learner) -> list[np.ndarray]:
    """Copies of all weights."""
    return [w.numpy().copy() for w in learner.weights]


def with_slow(names, slow) -> list:
    """Parameters of a test, some of which make it a slow one."""
    return [
        pytest.param(name, marks=[pytest.mark.slow] * (name in slow))
        for name in names
    ]


def assert_same_weights(a, b, rtol=0.0, atol=0.0):
    a = a if isinstance(a, list) else weights(a)
    b = b if isinstance(b, list) else weights(b)
    for i, (one, other) in enumerate(zip(a, b, strict=True)):
        np.testing.assert_allclose(
            one, other, rtol, atol, err_msg=f"weight {i}"
        )


def assert_equal_fits(actual, expected, atol):
    """Compares weights and logs of two pairs `(learner, history)`."""
    (learner, history), (other, other_history) = actual, expected
    assert_same_weights(learner, other, atol=atol)
    for name, values in other_history.items():
        np.testing.assert_allclose(history[name], values, atol=atol)


def have_moved(before, after) -> bool:
    return any(
        not np.array_equal(a, b) for a, b in zip(before, after, strict=True)
    )


# An inner loop written out, for one task.


def call_with(model, variables, values, x, training=True):
    """Calls a model with values in place of its variables."""
    mapping = list(zip(variables, values, strict=True))
    with keras.StatelessScope(state_mapping=mapping):
        return model(x, training=training)


def adapt_by_hand(
    model, x, y, loss, rule, steps, first_order=False, training=True
):
    """Returns the weights' values after `steps` steps on one task.

    `rule(i, values, grads)` returns the values after step `i`.
    """
    variables = model.trainable_variables
    values = [tf.convert_to_tensor(v.value) for v in variables]
    for i in range(steps):
        with tf.GradientTape() as tape:
            tape.watch(values)
            error = loss(y, call_with(model, variables, values, x, training))
        grads = tape.gradient(error, values)
        if first_order:
            grads = [tf.stop_gradient(g) for g in grads]
        values = rule(i, values, grads)
    return values


def descent(rate):
    """Gradient descent with one rate, or a rate for each weight."""

    def rule(i, values, grads):
        rates = rate if isinstance(rate, list) else [rate] * len(values)
        return [v - r * g for v, g, r in zip(values, grads, rates, strict=True)]

    return rule


class HandWrittenAdam:
    """Adam; its moments are zero at step 0."""

    def __init__(self, rate, beta_1, beta_2=0.999, epsilon=1e-8):
        self.settings = rate, beta_1, beta_2, epsilon

    def __call__(self, i, values, grads):
        rate, beta_1, beta_2, epsilon = self.settings
        if i == 0:
            self.first = [tf.zeros_like(g) for g in grads]
            self.second = [tf.zeros_like(g) for g in grads]
        results = []
        for k, (value, grad) in enumerate(zip(values, grads, strict=True)):
            first = beta_1 * self.first[k] + (1 - beta_1) * grad
            second = beta_2 * self.second[k] + (1 - beta_2) * grad**2
            self.first[k], self.second[k] = first, second
            first = first / (1 - beta_1 ** (i + 1))
            second = second / (1 - beta_2 ** (i + 1))
            results.append(value - rate * first / (second**0.5 + epsilon))
        return results


def run_python(
    code: str, timeout: float = 240, **environment
) -> subprocess.CompletedProcess:
    """Runs a program in a fresh interpreter, from the repository's root."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def assert_adapts_to_one_task(learner, x, folder):
    """Compares the plain model of a task, and its file, with the learner."""
    expected = learner(x)[1]
    adapted = learner.adapt(x["support_x"][1], x["support_y"][1])
    adapted.save(folder / "adapted.keras")
    loaded = keras.models.load_model(folder / "adapted.keras")
    for model in (adapted, loaded):
        np.testing.assert_allclose(model(x["query_x"][1]), expected, rtol=1e-9)
