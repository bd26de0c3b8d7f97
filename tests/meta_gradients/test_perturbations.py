"""Perturbations, and gradients of smoothed functions."""

import numpy as np
import pytest
import tensorflow as tf

from keras_meta.meta_gradients._perturbations import antithetic
from keras_meta.meta_gradients._perturbations import difference_estimate
from keras_meta.meta_gradients._perturbations import draw_noise

THETA = [tf.ones([2, 3], tf.float64), tf.zeros([], tf.float32)]


@pytest.mark.parametrize("draws", ["normal", "rademacher"])
def test_draws_have_shapes_and_types_of_the_values(draws):
    noise = draw_noise(THETA, tf.constant([3, 4]), 5, draws)
    assert [n.shape.as_list() for n in noise] == [[5, 2, 3], [5]]
    assert [n.dtype for n in noise] == [tf.float64, tf.float32]


@pytest.mark.parametrize("draws", ["normal", "rademacher"])
def test_a_seed_fixes_the_draws(draws):
    first, again, other = (
        draw_noise(THETA, tf.constant(seed), 5, draws)
        for seed in ([3, 4], [3, 4], [3, 5])
    )
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.any(first[0].numpy() != other[0].numpy())


@pytest.mark.parametrize("draws", ["normal", "rademacher"])
def test_values_of_one_shape_have_draws_of_their_own(draws):
    a, b = draw_noise([tf.zeros([40])] * 2, tf.constant([0, 0]), 2, draws)
    assert np.any(a.numpy() != b.numpy())
    assert np.any(a.numpy()[0] != a.numpy()[1])


def test_rademacher_draws_are_both_signs():
    (noise,) = draw_noise([tf.zeros([50])], [0, 1], 2, "rademacher")
    assert set(np.unique(noise)) == {-1.0, 1.0}


def test_pairs_differ_by_the_sign_of_their_noise():
    theta = [tf.constant([1.0, 2.0], tf.float64)]
    noise = [tf.constant([[1.0, 0.0], [2.0, -1.0]], tf.float64)]
    (rows,) = antithetic(theta, noise, 0.5)
    expected = [[1.5, 2.0], [2.0, 1.5], [0.5, 2.0], [0.0, 2.5]]
    np.testing.assert_array_equal(rows, expected)


@pytest.mark.parametrize("sigma", [0.1, 0.7])
def test_normal_noise_smooths_a_cosine(sigma):
    """`E[cos(omega (x + sigma e))]` is `cos(omega x) exp(-(omega sigma)^2/2)`.

    Nodes and weights of a quadrature take the place of random draws.
    """
    omega, x = 3.0, 0.4
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    estimates = []
    for node in nodes:
        noise = [tf.constant([node])]
        (rows,) = antithetic([tf.constant(x, tf.float64)], noise, sigma)
        (gradient,) = difference_estimate(tf.cos(omega * rows), noise, sigma)
        estimates.append(gradient.numpy())
    mean = np.dot(weights, estimates) / np.sum(weights)
    exact = -omega * np.sin(omega * x) * np.exp(-((omega * sigma) ** 2) / 2)
    np.testing.assert_allclose(mean, exact, rtol=1e-10)
