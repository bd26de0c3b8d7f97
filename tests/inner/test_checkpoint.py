import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_meta.inner.checkpoint import checkpointed_unroll
from keras_meta.inner.checkpoint import segment_length
from tests.reference import assert_close
from tests.reference import few
from tests.reference import normal


def step(i, carry, constants):
    """Gradient descent on a smooth function at a rate that grows."""
    point, count = carry
    target, rate = constants["target"], constants["rate"]
    with tf.GradientTape() as tape:
        tape.watch(point)
        loss = tf.reduce_sum((tf.sin(point) - target) ** 2 + 0.1 * point**4)
    gradient = tape.gradient(loss, point)
    growth = 1 + tf.cast(i, point.dtype) / 10
    point = point - rate * growth * gradient
    return (point, count + 1), {"loss": loss, "points": 2 * point}


VALUES = [normal([3], 1), normal([3], 2), tf.constant(0.03, tf.float64)]


def run(values, steps, length):
    point, target, rate = values
    with tf.GradientTape() as tape:
        tape.watch(values)
        (last, count), outputs = checkpointed_unroll(
            step,
            (point, tf.constant(0)),
            {"target": target, "rate": rate},
            steps,
            length,
        )
        order = tf.range(steps, dtype=tf.float64)
        total = (
            tf.reduce_sum(tf.sin(last))
            + tf.tensordot(order, outputs["loss"], 1)
            + tf.reduce_sum(tf.cos(outputs["points"]))
        )
    gradients = tape.gradient(total, values)
    return last, tf.cast(count, tf.float64), outputs, gradients


@pytest.mark.slow
@few
@given(steps=st.integers(1, 40), length=st.integers(1, 45))
def test_equals_the_loop_that_keeps_everything(steps, length):
    assert_close(run(VALUES, steps, length), run(VALUES, steps, None))


@pytest.mark.slow_variants(
    "26-13-False", "26-13-True", "5-1-False", "5-1-True", "7-3-False"
)
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize(("steps", "length"), [(7, 3), (26, 13), (5, 1)])
def test_equals_the_eager_loop_when_traced(steps, length, jit_compile):
    traced = tf.function(run, autograph=False, jit_compile=jit_compile)
    expected = run(VALUES, steps, None)
    assert_close(traced(VALUES, steps, length), expected)


def test_gradient_equals_finite_differences():
    *_, gradients = run(VALUES, 12, 4)

    def total(values):
        last, _, outputs, _ = run(values, 12, 4)
        order = tf.range(12, dtype=tf.float64)
        return (
            tf.reduce_sum(tf.sin(last))
            + tf.tensordot(order, outputs["loss"], 1)
            + tf.reduce_sum(tf.cos(outputs["points"]))
        )

    for index, gradient in enumerate(gradients):
        direction = normal(gradient.shape, 5)
        sums = []
        for sign in (1, -1):
            moved = list(VALUES)
            moved[index] = moved[index] + sign * 1e-6 * direction
            sums.append(total(moved))
        numeric = (sums[0] - sums[1]) / 2e-6
        exact = tf.reduce_sum(gradient * direction)
        np.testing.assert_allclose(exact, numeric, rtol=1e-7)


def test_unused_constants_have_a_zero_gradient():
    with tf.GradientTape() as tape:
        unused, x = tf.constant(3.0), tf.constant(2.0)
        tape.watch([unused, x])
        y, _ = checkpointed_unroll(
            lambda i, carry, _: (carry**2, carry), x, unused, 3, 2
        )
    assert_close(tape.gradient(y, [unused, x]), [0.0, 8 * 2.0**7])


def test_no_steps():
    carry, outputs = checkpointed_unroll(step, (1, 2), None, 0, 3)
    assert (carry, outputs) == ((1, 2), None)


def test_a_second_derivative_is_refused():
    with tf.GradientTape() as outer, tf.GradientTape() as inner:
        x = tf.constant(2.0)
        outer.watch(x)
        inner.watch(x)
        y, _ = checkpointed_unroll(
            lambda i, carry, _: (carry**2, carry), x, (), 3, 2
        )
        gradient = inner.gradient(y, x)
    with pytest.raises(NotImplementedError, match="checkpoint='off'"):
        outer.gradient(gradient, x)


@given(steps=st.integers(1, 5000))
def test_a_segment_is_about_the_square_root_long(steps):
    length = segment_length("sqrt", steps)
    root = math.sqrt(steps)
    assert root / 2 <= length <= 2 * root + 2
    # Either segments come out even, or nothing near does.
    if steps % length:
        assert length == math.ceil(root)
        near = range(math.ceil(length / 2), 2 * length + 1)
        assert all(steps % n for n in near)


def test_length_of_a_segment_in_the_other_settings():
    assert segment_length("off", 1000) is None
    assert segment_length("step", 1000) == 1
    assert segment_length("auto", 32) is None
    assert segment_length("auto", 100) == segment_length("sqrt", 100) == 10
    assert segment_length("sqrt", 1000) == 40
    assert segment_length("sqrt", 0) == 1


@pytest.mark.slow_variants("eager", "xla")
@pytest.mark.parametrize("how", ["eager", "graph", "xla"])
def test_gradients_reach_what_a_step_takes_from_around(how):
    rate = tf.Variable(0.03, dtype=tf.float64)
    table = tf.Variable([[0.1, 0.2, 0.3], [0.2, 0.1, 0.4]], dtype=tf.float64)
    frozen = tf.Variable(1.5, dtype=tf.float64, trainable=False)
    point, target, shift = VALUES

    def gradients(length):
        with tf.GradientTape() as tape:
            tape.watch([point, target, shift])
            moved = tf.exp(shift)

            def read(i, carry, target):
                row = tf.gather(table, i % 2)
                constants = {"target": target + row, "rate": rate * frozen}
                (at, count), outputs = step(i, carry, constants)
                return (at * moved, count), outputs

            (last, _), outputs = checkpointed_unroll(
                read, (point, tf.constant(0)), target, 5, length
            )
            total = tf.reduce_sum(tf.sin(last)) + outputs["loss"][1]
        return tape.gradient(total, [point, target, shift, rate, table])

    if how != "eager":
        gradients = tf.function(
            gradients, autograph=False, jit_compile=how == "xla"
        )
    found, expected = gradients(2), gradients(None)
    assert all(tf.reduce_all(g != 0) for g in found)
    assert_close(found, [tf.convert_to_tensor(g) for g in expected])
