"""Implicit gradients against their closed forms, in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.meta_gradients import InnerLoop
from keras_meta.meta_gradients import Solver

from .quadratics import bowls
from .quadratics import minimum

EIGENVALUES = [[0.5, 1.0, 2.0], [0.2, 1.5, 3.0]]
RATE = 0.3
STEPS = 100
# The outer loss is a bowl around this point.
TARGET = tf.constant([0.3, -1.0, 0.7], tf.float64)


def gradient(meta_gradient, problem, data, theta, steps=STEPS, rate=RATE):
    """Returns the gradient of the outer loss, and the end of the loop."""
    solver = Solver(keras_meta.GradientDescent(rate, dtype="float64"))
    solver.rule.attach(problem.variables, steps)
    with tf.GradientTape() as tape:
        tape.watch(theta)
        start = solver.init(problem, theta, data)
        loop = InnerLoop(solver, problem, theta, data, start, steps)
        end, _ = meta_gradient.solve(loop)
        loss = tf.reduce_sum(tf.square(end.params[0] - TARGET)) / 2
    return tape.gradient(loss, theta)[0], end.params[0]


def closed_form(problem, data, theta):
    """`proximal (A + proximal I)^-1` times the outer gradient."""
    d = theta[0].shape[0]
    hessian = data["A"] + problem.proximal * tf.eye(d, dtype=tf.float64)
    outer = minimum(problem, data, theta) - TARGET
    moved = tf.linalg.solve(hessian, outer[..., tf.newaxis])[..., 0]
    return problem.proximal * tf.reduce_sum(moved, 0)


@pytest.mark.slow_variants("0.5", "10.0")
@pytest.mark.parametrize("proximal", [0.5, 1.0, 10.0])
def test_conjugate_gradient_is_exact(proximal):
    rate = 1 / (proximal + 3)
    problem, data, theta = bowls(EIGENVALUES, proximal)
    found, end = gradient(
        keras_meta.Implicit(steps=3), problem, data, theta, rate=rate
    )
    np.testing.assert_allclose(end, minimum(problem, data, theta), atol=1e-12)
    np.testing.assert_allclose(found, closed_form(problem, data, theta), 1e-10)


def test_a_neumann_series_is_backpropagation_from_the_minimum():
    problem, data, theta = bowls(EIGENVALUES)
    terms = 7
    found, _ = gradient(
        keras_meta.Implicit("neumann", steps=terms, rate=RATE),
        problem,
        data,
        theta,
    )
    with tf.GradientTape() as tape:
        tape.watch(theta)
        params = minimum(problem, data, [tf.stop_gradient(theta[0])])
        params = tf.stop_gradient(params)
        for _ in range(terms):
            inner = tf.linalg.matvec(data["A"], params - data["a"])
            inner += problem.proximal * (params - theta[0])
            params -= RATE * inner
        loss = tf.reduce_sum(tf.square(params - TARGET)) / 2
    expected = tape.gradient(loss, theta)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_the_identity_is_the_first_term():
    problem, data, theta = bowls(EIGENVALUES)
    of = [
        gradient(meta_gradient, problem, data, theta)[0]
        for meta_gradient in (
            keras_meta.Implicit("identity", rate=RATE),
            keras_meta.Implicit("neumann", steps=1, rate=RATE),
        )
    ]
    np.testing.assert_allclose(*of, rtol=1e-14)
    outer = tf.reduce_sum(minimum(problem, data, theta) - TARGET, 0)
    np.testing.assert_allclose(of[0], problem.proximal * RATE * outer, 1e-10)


def test_unrolled_gradients_approach_it_at_the_predicted_rate():
    problem, data, theta = bowls(EIGENVALUES)
    exact = closed_form(problem, data, theta)
    errors = []
    for steps in (25, 26):
        found, _ = gradient(keras_meta.Unrolled(), problem, data, theta, steps)
        errors.append(np.linalg.norm(found - exact))
    # Every step shrinks the slowest direction, of curvature 0.2 + 1.
    slowest = 1 - RATE * 1.2
    np.testing.assert_allclose(errors[1] / errors[0], slowest, rtol=2e-2)
    assert errors[1] < 1e-3


def test_a_strong_pull_gives_the_first_order_gradient_at_the_start():
    problem, data, theta = bowls(EIGENVALUES, proximal=1e7)
    found, _ = gradient(
        keras_meta.Implicit(steps=3), problem, data, theta, rate=1e-7
    )
    first_order = 2 * (theta[0] - TARGET)
    np.testing.assert_allclose(found, first_order, rtol=1e-5)


def test_without_a_pull_the_start_is_forgotten():
    problem, data, theta = bowls([[1.0, 2, 3], [1.5, 2, 2.5]], proximal=1e-9)
    found, _ = gradient(keras_meta.Implicit(steps=3), problem, data, theta)
    assert np.abs(found).max() < 1e-7


def test_a_loss_without_a_meta_parameter_is_refused():
    problem, data, theta = bowls(EIGENVALUES, proximal=0.0)
    with pytest.raises(ValueError, match="must depend on a meta-parameter"):
        gradient(keras_meta.Implicit(), problem, data, theta)


def test_damping_adds_to_the_diagonal():
    problem, data, theta = bowls(EIGENVALUES)
    found, end = gradient(
        keras_meta.Implicit(steps=3, damping=0.7), problem, data, theta
    )
    hessian = data["A"] + 1.7 * tf.eye(3, dtype=tf.float64)
    moved = tf.linalg.solve(hessian, (end - TARGET)[..., tf.newaxis])
    np.testing.assert_allclose(found, tf.reduce_sum(moved[..., 0], 0), 1e-10)


def test_a_diverging_series_becomes_nan():
    problem, data, theta = bowls(EIGENVALUES)
    meta_gradient = keras_meta.Implicit("neumann", steps=30, rate=1.0)
    found, _ = gradient(meta_gradient, problem, data, theta)
    assert np.all(np.isnan(found))


def _tasks():
    rng = np.random.default_rng(0)
    x = {
        "support_x": rng.normal(size=[4, 5, 3]),
        "support_y": rng.normal(size=[4, 5, 1]),
        "query_x": rng.normal(size=[4, 6, 3]),
    }
    return x, rng.normal(size=[4, 6, 1])


def _network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input([3]),
            keras.layers.Dense(4, "tanh"),
            keras.layers.Dense(1),
        ]
    )


def _moves(meta_gradient, steps=300, rate=0.1, normalized=False, **options):
    """Returns how a meta-step of rate 1 moves each weight, and its logs."""
    model = _network()
    before = [v.numpy() for v in model.trainable_variables]
    learner = keras_meta.MAML(
        model,
        0.1,
        300,
        proximal=1.0,
        meta_gradient=meta_gradient,
        **options,
    )
    learner.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
    logs = learner.train_on_batch(*_tasks(), return_dict=True)
    after = [v.numpy() for v in model.trainable_variables]
    return [b - a for b, a in zip(before, after, strict=True)], logs


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "meta_gradient"),
    [
        ({}, keras_meta.Implicit(steps=80, tolerance=1e-12)),
        pytest.param(
            {},
            keras_meta.Implicit("neumann", steps=400, rate=0.1),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"adapt": "head"},
            keras_meta.Implicit(steps=80, tolerance=1e-12),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_learner_gets_the_unrolled_gradient_at_a_minimum(
    options, meta_gradient
):
    expected, _ = _moves("unrolled", **options)
    found, logs = _moves(meta_gradient, **options)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8)
    assert logs["inner_gradient_norm"] < 1e-6


@pytest.mark.parametrize("jit_compile", [False, "auto"])
def test_evaluation_has_no_norm_that_it_did_not_measure(jit_compile):
    learner = keras_meta.ImplicitMAML(_network(), 0.1, 3, proximal=1.0)
    learner.compile("sgd", "mse", jit_compile=jit_compile)
    x, y = _tasks()
    logs = learner.fit(x, y, validation_data=(x, y), verbose=0).history
    measured = {"loss", "inner_gradient_norm", "negative_curvature"}
    assert set(logs) == measured | {"val_loss"}
    assert learner.evaluate(x, y, verbose=0) == pytest.approx(
        logs["val_loss"][0]
    )


@pytest.mark.slow
def test_xla_computes_the_same():
    moves = []
    for jit_compile in (False, True):
        learner = keras_meta.ImplicitMAML(_network(), 0.1, 50, proximal=1.0)
        learner.compile("sgd", "mse", jit_compile=jit_compile)
        learner.train_on_batch(*_tasks())
        moves.append(learner.get_weights())
    for a, b in zip(*moves, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_fit_warns_once_where_it_is_not_at_a_minimum():
    learner = keras_meta.ImplicitMAML(
        _network(),
        0.01,
        steps=1,
        proximal=0.01,
        meta_gradient=keras_meta.Implicit(steps=20),
    )
    learner.compile("sgd", "mse", jit_compile=False)
    message = "gradient is 0.9.*downwards in"
    with pytest.warns(UserWarning, match=message):
        logs = learner.train_on_batch(*_tasks(), return_dict=True)
    assert 0 < logs["negative_curvature"] <= 1
    with np.testing.assert_no_warnings():
        learner.train_on_batch(*_tasks())


def test_a_diverging_series_stops_training():
    learner = keras_meta.ImplicitMAML(
        _network(),
        0.1,
        20,
        meta_gradient=keras_meta.Implicit("neumann", rate=10.0),
    )
    learner.compile("sgd", "mse", jit_compile=False)
    before = learner.get_weights()
    with pytest.raises(FloatingPointError, match="Neumann series.*rate=10.0"):
        learner.train_on_batch(*_tasks())
    for a, b in zip(before, learner.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_rules_that_learn_are_refused():
    rule = keras_meta.GradientDescent(0.1, learn="scalar")
    with pytest.raises(ValueError, match="how the inner loop got.*learns"):
        keras_meta.ImplicitMAML(_network(), rule)


def test_step_weights_are_refused():
    with pytest.raises(ValueError, match="`step_weights`.*Implicit"):
        keras_meta.MAML(
            _network(),
            steps=2,
            step_weights="uniform",
            meta_gradient="implicit",
            proximal=1.0,
        )


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"method": "newton"}, "method"),
        ({"steps": 0}, "steps"),
        ({"damping": -1.0}, "damping"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"rate": 0.0}, "rate"),
        ({"largest_gradient": "0.1"}, "largest_gradient"),
    ],
)
def test_arguments_out_of_range(options, name):
    with pytest.raises(ValueError, match=f"`{name}` must"):
        keras_meta.Implicit(**options)


@pytest.mark.parametrize("proximal", [0, -1.0, "2", float("inf")])
def test_a_proximal_term_that_is_not_positive(proximal):
    with pytest.raises(ValueError, match="`proximal` must"):
        keras_meta.ImplicitMAML(_network(), proximal=proximal)
