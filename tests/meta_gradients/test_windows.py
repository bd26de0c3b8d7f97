"""Evolution strategies on windows of runs with known gradients.

The dynamics `s <- A s + v . theta` are linear and the loss is quadratic, so a
difference of losses is linear in the noise. Averaging over all patterns of
signs then gives expectations exactly.
"""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from tests.reference import normal

WINDOWS, STEPS, SIGMA = 3, 2, 0.3
A = tf.constant([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5], [0.3, 0.0, 0.5]], tf.float64)
V = normal([4, 3], 7)
START = normal([4, 3], 8)
ALL = [
    keras_meta.EvolutionStrategies,
    keras_meta.PersistentES,
    keras_meta.NoiseReuseES,
]


def start(theta):
    """The first state depends on the meta-parameters too."""
    (theta,) = theta
    return 1.0 + tf.tensordot(theta, START[: theta.shape[-1]], 1)


def run(theta, carry, first, steps):
    """The sum over steps, weighted by their numbers."""
    push = tf.tensordot(theta[0], V[: theta[0].shape[-1]], 1)
    losses = 0.0
    for i in range(steps):
        carry = tf.matmul(carry, A) + push
        weight = 1.0 + 0.1 * tf.cast(first + i, tf.float64)
        losses += weight * 0.5 * (carry[:, 0] - 1.0) ** 2
    return losses, carry


def backpropagated(theta, truncated):
    """The gradient of each window by backpropagation, `[WINDOWS, size]`."""
    gradients = []
    for window in range(WINDOWS):
        with tf.GradientTape() as tape:
            tape.watch(theta)
            carry = start([theta[tf.newaxis]])
            for i in range(window + 1):
                if truncated and i == window and i > 0:
                    carry = tf.stop_gradient(carry)
                loss, carry = run([theta[tf.newaxis]], carry, i * STEPS, STEPS)
        gradients.append(tape.gradient(loss, theta).numpy())
    return np.stack(gradients)


def estimated(strategy, theta, noise):
    """The gradient of each window, with the noise `[WINDOWS, pairs, size]`."""
    particles = strategy.begin(start, [theta], [noise[0]])
    gradients = []
    for i in range(WINDOWS):
        window = strategy.window(
            run, [theta], particles, [noise[i]], i * STEPS, STEPS
        )
        particles = window.particles
        gradients.append(window.gradients[0].numpy())
    return np.stack(gradients)


def all_signs(size=1):
    """Every pattern of signs is a pair, `[WINDOWS, pairs, size]`."""
    patterns = list(itertools.product([-1.0, 1.0], repeat=WINDOWS * size))
    patterns = np.reshape(patterns, [-1, WINDOWS, size])
    return tf.constant(patterns.transpose(1, 0, 2))


def of_all_signs(method, theta):
    noise = all_signs(theta.shape[0])
    strategy = method(particles=noise.shape[1], sigma=SIGMA)
    return estimated(strategy, theta, noise)


THETA = [tf.constant([0.7], tf.float64), normal([2], 5)]


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_noise_reuse_is_exact_for_every_draw(sign):
    noise = tf.fill([WINDOWS, 1, 1], tf.constant(sign, tf.float64))
    strategy = keras_meta.NoiseReuseES(1, SIGMA)
    actual = estimated(strategy, THETA[0], noise)
    np.testing.assert_allclose(
        actual, backpropagated(THETA[0], truncated=False), rtol=1e-10
    )


def test_noise_reuse_ignores_noise_drawn_later():
    first = tf.ones([1, 1, 1], tf.float64)
    noise = tf.concat([first, normal([WINDOWS - 1, 1, 1])], 0)
    actual = estimated(keras_meta.NoiseReuseES(1, SIGMA), THETA[0], noise)
    np.testing.assert_allclose(
        actual, backpropagated(THETA[0], truncated=False), rtol=1e-10
    )


def test_noise_reuse_is_exact_in_orthogonal_directions():
    h2 = np.array([[1.0, 1.0], [1.0, -1.0]])
    noise = tf.constant(np.stack([np.kron(h2, h2)] * WINDOWS))
    theta = normal([4], 3)
    actual = estimated(keras_meta.NoiseReuseES(4, SIGMA), theta, noise)
    np.testing.assert_allclose(
        actual, backpropagated(theta, truncated=False), rtol=1e-9
    )


@pytest.mark.parametrize("theta", THETA)
def test_persistent_es_has_no_bias(theta):
    np.testing.assert_allclose(
        of_all_signs(keras_meta.PersistentES, theta),
        backpropagated(theta, truncated=False),
        rtol=1e-9,
    )


@pytest.mark.parametrize("theta", THETA)
def test_es_on_windows_has_the_bias_of_truncation(theta):
    actual = of_all_signs(keras_meta.EvolutionStrategies, theta)
    exact = backpropagated(theta, truncated=False)
    np.testing.assert_allclose(
        actual, backpropagated(theta, truncated=True), rtol=1e-9
    )
    np.testing.assert_allclose(actual[0], exact[0], rtol=1e-9)
    assert np.all(np.abs(actual[1:] - exact[1:]) > 0.01)


def _variances(method):
    """Exact variances of the estimates for the windows, one pair each.

    Every window has the loss `(theta - 1)^2 / 2`, whatever came before.
    """

    def forget(theta, carry, first, steps):
        return 0.5 * (theta[0] - 1.0) ** 2, carry

    theta = [tf.constant(3.0, tf.float64)]
    strategy = method(1, SIGMA)
    estimates = []
    for signs in itertools.product([-1.0, 1.0], repeat=4):
        noise = [[tf.constant([sign], tf.float64)] for sign in signs]
        particles = strategy.begin(lambda theta: [], theta, noise[0])
        estimates.append([])
        for i in range(4):
            window = strategy.window(forget, theta, particles, noise[i], i, 1)
            particles = window.particles
            estimates[-1].append(window.gradients[0].numpy())
    np.testing.assert_allclose(np.mean(estimates, 0), 2.0, rtol=1e-10)
    return np.var(estimates, 0)


def test_the_variance_of_persistent_es_grows_with_the_windows():
    variances = _variances(keras_meta.PersistentES)
    np.testing.assert_allclose(variances, [0.0, 4.0, 8.0, 12.0], atol=1e-9)


def test_the_variance_of_noise_reuse_does_not_grow():
    variances = _variances(keras_meta.NoiseReuseES)
    np.testing.assert_allclose(variances, 0.0, atol=1e-9)


@pytest.mark.parametrize("method", ALL)
def test_the_gradient_is_the_mean_over_pairs_and_tasks(method):
    theta, noise = normal([4], 3), normal([WINDOWS, 6, 4])
    together = estimated(method(3, SIGMA), theta, noise)
    alone = [
        estimated(method(1, SIGMA), theta, noise[:, i : i + 1])
        for i in range(6)
    ]
    np.testing.assert_allclose(together, np.mean(alone, 0), rtol=1e-9)


@pytest.mark.parametrize("method", ALL)
def test_a_run_that_restarts_forgets_the_one_before(method):
    theta, noise = [normal([4], 3)], normal([3, 4, 4])
    strategy = method(2, SIGMA)
    old = strategy.begin(start, theta, [noise[0]])
    old = strategy.window(run, theta, old, [noise[0]], 0, STEPS).particles
    new = strategy.begin(start, theta, [noise[1]])
    mixed = strategy.restart(old, new, tf.constant([False, True]))
    results = [
        strategy.window(run, theta, particles, [noise[1]], 2, STEPS)
        for particles in (old, new, mixed)
    ]
    # Rows are [signs, pairs, tasks].
    losses = [np.reshape(result.losses, [2, 2, 2]) for result in results]
    np.testing.assert_array_equal(losses[2][..., 0], losses[0][..., 0])
    np.testing.assert_array_equal(losses[2][..., 1], losses[1][..., 1])
    assert np.all(losses[0] != losses[1])
    kept = [result.particles.noise for result in results]
    for a, b, c in zip(*kept, strict=True):
        a, b, c = (np.reshape(x, [2, 2, 4]) for x in (a, b, c))
        np.testing.assert_array_equal(c[:, 0], a[:, 0])
        np.testing.assert_array_equal(c[:, 1], b[:, 1])


@pytest.mark.slow_variants("EvolutionStrategies", "NoiseReuseES")
@pytest.mark.parametrize("method", ALL)
def test_windows_are_pure_functions_that_a_graph_can_repeat(method):
    theta = [normal([4], 3), tf.constant(2.0, tf.float64)]
    strategy = method(2, SIGMA, 5)

    def begin(theta):
        return {"s": start(theta[:1]), "n": tf.zeros_like(theta[1])}

    def more(theta, carry, first, steps):
        losses, state = run(theta[:1], carry["s"], first, steps)
        return losses * theta[1], {"s": state, "n": carry["n"] + 1.0}

    def two_windows():
        noise = strategy.noise(theta, tf.constant([1, 2]), tasks=3)
        particles = strategy.begin(begin, theta, noise)
        window = strategy.window(more, theta, particles, noise, 0, STEPS)
        noise = strategy.noise(theta, tf.constant([1, 3]), tasks=3)
        return strategy.window(
            more, theta, window.particles, noise, STEPS, STEPS
        )

    eager, graph = two_windows(), tf.function(two_windows)()
    keras.tree.map_structure(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), eager, graph
    )
    assert [g.shape.as_list() for g in eager.gradients] == [[4], []]
    assert eager.losses.shape == [12]
