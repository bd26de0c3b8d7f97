"""Random problems on which update rules take steps."""

import keras
import numpy as np
import tensorflow as tf
from hypothesis import settings
from hypothesis import strategies as st

few = settings(max_examples=5, deadline=None, derandomize=True, database=None)

# Exact in float32, so that rules and Keras agree in all digits.
rates = st.integers(1, 512).map(lambda i: i / 1024)
decays = st.integers(0, 1023).map(lambda i: i / 1024)

SHAPES = {"one/kernel": (2, 3), "one/bias": (3,), "two/kernel": (3, 1)}


def normal(shape, seed=0):
    return tf.constant(np.random.default_rng(seed).normal(size=shape))


def variables():
    """Variables of two layers, with paths as in a model."""
    model = keras.Sequential(
        [
            keras.Input([2]),
            keras.layers.Dense(3, name="one"),
            keras.layers.Dense(1, use_bias=False, name="two"),
        ],
        name="net",
    )
    return model.trainable_variables


def start(tasks=None, seed=0):
    """Values of the variables, with a task axis if `tasks` is given."""
    lead = [] if tasks is None else [tasks]
    return [
        normal([*lead, *shape], seed + i)
        for i, shape in enumerate(SHAPES.values())
    ]


def gradients(params):
    """Gradients of a smooth function, so that they depend on `params`."""
    return [tf.sin(3 * p) + 0.5 * p for p in params]


def run(rule, params, steps, grads=gradients):
    """Takes steps, and returns the parameters after each one."""
    state = rule.init_state(params)
    points = []
    for _ in range(steps):
        params, state = rule.update(params, grads(params), state)
        points.append(params)
    return points


def attached(rule, steps=3):
    rule.attach(variables(), steps)
    return rule


def assert_close(actual, expected, tolerance=1e-12):
    actual, expected = (
        [np.asarray(x) for x in keras.tree.flatten(xs)]
        for xs in (actual, expected)
    )
    assert [x.shape for x in actual] == [x.shape for x in expected]
    for x, y in zip(actual, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance)
