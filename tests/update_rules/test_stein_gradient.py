import math

import numpy as np
import pytest
import tensorflow as tf

from keras_meta.update_rules.gradient_descent import GradientDescent
from keras_meta.update_rules.momentum import Momentum
from keras_meta.update_rules.stein_gradient import SteinGradient

from .problems import assert_close
from .problems import attached
from .problems import gradients
from .problems import run
from .problems import start

PARTICLES, TASKS = 3, 2
SHAPES = [(2, 2), (3,)]


def _random(seed):
    rng = np.random.default_rng(seed)
    return [
        tf.constant(rng.normal(size=[PARTICLES * TASKS, *shape]))
        for shape in SHAPES
    ]


def _rule(**options):
    return SteinGradient(GradientDescent(1.0), PARTICLES, **options)


def _median_bandwidth(particles):
    squares = [
        ((a - b) ** 2).sum()
        for i, a in enumerate(particles)
        for b in particles[:i]
    ]
    return np.median(squares) / math.log(len(particles))


def _direction(particles, grads, i, bandwidth, temperature):
    """Returns the direction of one particle, by the definition."""
    total = 0.0
    for particle, grad in zip(particles, grads, strict=True):
        with tf.GradientTape() as tape:
            w = tf.constant(particle)
            tape.watch(w)
            square = tf.reduce_sum((w - particles[i]) ** 2)
            kernel = tf.exp(-square / bandwidth)
        push = tape.gradient(kernel, w).numpy()
        total += kernel.numpy() * grad - temperature * push
    return total / len(particles)


@pytest.mark.parametrize("bandwidth", [None, 0.7])
def test_directions_are_those_of_the_definition(bandwidth):
    params, grads = _random(0), _random(1)
    rule = _rule(temperature=0.3, bandwidth=bandwidth)
    directions = rule.directions(params, grads)
    flat = [
        np.concatenate([x.numpy().reshape(len(x), -1) for x in xs], axis=1)
        for xs in (params, grads, directions)
    ]
    for task in range(TASKS):
        particles, slopes, actual = (x[task::TASKS] for x in flat)
        h = bandwidth or _median_bandwidth(particles)
        expected = [
            _direction(particles, slopes, i, h, 0.3) for i in range(PARTICLES)
        ]
        np.testing.assert_allclose(actual, expected, rtol=1e-10)


@pytest.mark.parametrize("h", [0.5, 2.0, 8.0])
def test_two_particles_rest_where_a_normal_density_holds_them(h):
    # The push outward, 4 a exp(-4 a^2 / h) / h, equals the pull inward,
    # a (1 - exp(-4 a^2 / h)), at a^2 = h / 4 log(1 + 4 / h).
    rule = SteinGradient(GradientDescent(1.0), 2, bandwidth=h)
    rest = math.sqrt(h / 4 * math.log(1 + 4 / h))

    def direction(a):
        params = tf.constant([[-a], [a]], tf.float64)
        return rule.directions([params], [params])[0].numpy()[:, 0]

    np.testing.assert_allclose(direction(rest), 0.0, atol=1e-14)
    assert direction(0.9 * rest)[1] < 0 < direction(1.1 * rest)[1]


def test_one_particle_follows_its_gradient():
    expected = run(attached(Momentum(0.1)), start(2), 3)
    rule = attached(SteinGradient(Momentum(0.1), particles=1))
    assert_close(run(rule, start(2), 3), expected, 0)


def test_no_temperature_pushes_nothing_apart():
    params = [tf.constant([[-0.1], [0.1]], tf.float64)]
    rule = SteinGradient(GradientDescent(1.0), 2, temperature=0.0)
    directions = rule.directions(params, [tf.zeros_like(params[0])])
    np.testing.assert_array_equal(directions[0], 0.0)


def test_particles_in_one_place_stay_together():
    params = [tf.ones([4, 1], tf.float64)]
    rule = SteinGradient(GradientDescent(1.0), 4)
    directions = rule.directions(params, [2 * params[0]])
    np.testing.assert_allclose(directions[0], 2.0, rtol=1e-12)


def test_the_order_of_particles_does_not_matter():
    order = np.array([2, 0, 1])
    rows = (order[:, None] * TASKS + np.arange(TASKS)).ravel()
    params, grads = _random(0), _random(1)
    rule = _rule()
    expected = [d.numpy()[rows] for d in rule.directions(params, grads)]
    actual = rule.directions(
        [tf.gather(p, rows) for p in params],
        [tf.gather(g, rows) for g in grads],
    )
    assert_close(actual, expected)


def test_the_other_rule_takes_the_step():
    rule = attached(SteinGradient(GradientDescent(0.5), 2))
    params = start(2)
    grads = gradients(params)
    moved, _ = rule.update(params, grads, rule.init_state(params))
    directions = rule.directions(params, grads)
    expected = [p - 0.5 * d for p, d in zip(params, directions, strict=True)]
    assert_close(moved, expected)


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="`rule` must be an update rule"):
        SteinGradient("adam", 2)
    with pytest.raises(ValueError, match="`temperature`.*Received.*-1"):
        SteinGradient(GradientDescent(0.1), 2, temperature=-1.0)
    with pytest.raises(ValueError, match="`bandwidth`.*Received.*0"):
        SteinGradient(GradientDescent(0.1), 2, bandwidth=0.0)
