import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_meta.update_rules.adam import Adam

from .problems import assert_close
from .problems import attached
from .problems import decays
from .problems import few
from .problems import gradients
from .problems import rates
from .problems import run
from .problems import start


@few
@given(
    rate=rates,
    beta_1=decays,
    beta_2=decays,
    epsilon=st.sampled_from([1e-8, 1e-3, 0.5]),
)
def test_adam_equals_the_optimizer_of_keras(rate, beta_1, beta_2, epsilon):
    # As in algorithm 1 of the paper, epsilon is added to the root of the
    # corrected second moment. Keras adds it to the root of the uncorrected
    # one, so its epsilon is ours times sqrt(1 - beta_2 ** step).
    rule = Adam(rate, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon)
    points = run(attached(rule), start(), 6)
    optimizer = keras.optimizers.Adam(rate, beta_1=beta_1, beta_2=beta_2)
    variables = [keras.Variable(p, dtype="float64") for p in start()]
    optimizer.build(variables)
    for step, point in enumerate(points, 1):
        optimizer.epsilon = epsilon * np.sqrt(1 - beta_2**step)
        optimizer.apply(gradients([v.value for v in variables]), variables)
        assert_close(point, [v.value for v in variables], 1e-11)


def test_decays_are_used_in_full_precision():
    rule = attached(Adam(0.5, beta_1=0.9, beta_2=0.999, epsilon=0.0))
    first, second = [0.0] * 3, [0.0] * 3
    params = start()
    for step, point in enumerate(run(rule, start(), 3), 1):
        grads = gradients(params)
        first = [
            0.9 * m + (1 - 0.9) * g for m, g in zip(first, grads, strict=True)
        ]
        second = [
            0.999 * v + (1 - 0.999) * g**2
            for v, g in zip(second, grads, strict=True)
        ]
        params = [
            p - 0.5 * (m / (1 - 0.9**step)) / tf.sqrt(v / (1 - 0.999**step))
            for p, m, v in zip(params, first, second, strict=True)
        ]
        assert_close(point, params, 1e-11)


def test_the_first_step_moves_by_the_rate():
    rule = attached(Adam(0.125, beta_1=0.5, beta_2=0.75, epsilon=0.0))
    expected = [
        p - 0.125 * tf.sign(g)
        for p, g in zip(start(), gradients(start()), strict=True)
    ]
    assert_close(run(rule, start(), 1)[0], expected)


def test_zero_gradients_do_not_move():
    rule = attached(Adam(0.1))
    points = run(
        rule, start(2), 3, lambda params: [tf.zeros_like(p) for p in params]
    )
    assert_close(points, [start(2)] * 3, 0)


def final_gradients(slope, order):
    """Derivatives of steps on `slope * p ** 2 / 2` by the start."""
    rule = attached(Adam(0.1))
    params = start(2)
    with tf.GradientTape() as outer:
        outer.watch(params)
        with tf.GradientTape() as inner:
            inner.watch(params)
            ends = run(rule, params, 3, lambda ps: [slope * p for p in ps])[-1]
            loss = tf.add_n([tf.reduce_sum(tf.sin(p)) for p in ends])
        first = inner.gradient(loss, params)
        if order == 1:
            return first
        total = tf.add_n([tf.reduce_sum(tf.sin(g)) for g in first])
    return outer.gradient(total, params)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("slope", [0.0, 1.0])
def test_derivatives_through_steps_are_finite(order, slope):
    result = final_gradients(slope, order)
    for x in result:
        assert np.all(np.isfinite(x))
        assert np.any(x != 0)


@pytest.mark.slow
def test_zero_gradients_have_the_second_order_gradients_of_no_step():
    # Without a gradient nothing moves: the end is the start.
    expected = [tf.cos(p) for p in start(2)]
    assert_close(final_gradients(0.0, 1), expected)


def test_partly_zero_gradients_have_finite_derivatives():
    rule = attached(Adam(0.1))
    scale = tf.constant([[1.0], [0.0], [2.0]], tf.float64)

    def grads(params):
        return [params[0] * 0.0, params[1], params[2] * scale]

    params = start()
    with tf.GradientTape() as tape:
        tape.watch(params)
        ends = run(rule, params, 4, grads)[-1]
        loss = tf.add_n([tf.reduce_sum(tf.sin(p)) for p in ends])
    for x in tape.gradient(loss, params):
        assert np.all(np.isfinite(x))


@pytest.mark.slow
def test_derivatives_through_steps_equal_finite_differences():
    rule = attached(Adam(0.1, epsilon=1e-3))

    def final(params):
        ends = run(rule, params, 3)[-1]
        return tf.add_n([tf.reduce_sum(tf.sin(p)) for p in ends])

    params = start()
    with tf.GradientTape() as tape:
        tape.watch(params)
        loss = final(params)
    for i, gradient in enumerate(tape.gradient(loss, params)):
        for index in np.ndindex(*gradient.shape):
            unit = np.zeros(gradient.shape)
            unit[index] = 1e-6
            ends = [
                final([*params[:i], params[i] + s * unit, *params[i + 1 :]])
                for s in (1, -1)
            ]
            expected = (ends[0] - ends[1]) / 2e-6
            np.testing.assert_allclose(
                gradient[index], expected, rtol=1e-6, atol=1e-7
            )


def test_moments_start_at_zero_for_every_task():
    rule = attached(Adam(0.1))
    first = run(rule, start(2), 3)
    assert_close(run(rule, start(2), 3), first, 0)


@pytest.mark.parametrize("name", ["beta_1", "beta_2"])
@pytest.mark.parametrize("value", [-0.1, 1.0, 2])
def test_decays_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be a number in"):
        Adam(0.1, **{name: value})


def test_config_round_trip():
    rule = Adam(
        0.2,
        "layer_step",
        beta_1=0.5,
        beta_2=0.8,
        epsilon=1e-4,
        clip_value=3.0,
        name="rule",
    )
    config = keras.saving.serialize_keras_object(rule)
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is Adam
    assert copy.get_config() == rule.get_config()
    points = run(attached(rule), start(), 3)
    assert_close(run(attached(copy), start(), 3), points, 0)
