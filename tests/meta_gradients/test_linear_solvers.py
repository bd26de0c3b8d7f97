import numpy as np
import pytest
import tensorflow as tf

from keras_meta.meta_gradients.linear_solvers import conjugate_gradient
from keras_meta.meta_gradients.linear_solvers import neumann_series

from .quadratics import bowls

# Two tasks of five dimensions, with so many distinct eigenvalues.
SPECTRA = {
    1: [[2.0] * 5, [0.5] * 5],
    2: [[1.0, 1, 3, 3, 3], [0.2, 0.2, 0.2, 0.2, 5]],
    5: [[1.0, 2, 3, 4, 5], [0.1, 0.3, 1, 2, 4]],
}


def _system(eigenvalues, seed=0):
    _, data, _ = bowls(eigenvalues, seed=seed)
    b = tf.constant(np.random.default_rng(9).normal(size=data["a"].shape))
    solution = tf.linalg.solve(data["A"], b[..., tf.newaxis])[..., 0]
    return lambda v: [tf.linalg.matvec(data["A"], v[0])], [b], solution


def _error(found, expected):
    return float(tf.reduce_max(tf.abs(found.x[0] - expected)))


@pytest.mark.parametrize("distinct", SPECTRA)
@pytest.mark.parametrize("seed", range(3))
def test_as_many_steps_as_distinct_eigenvalues_are_exact(distinct, seed):
    product, b, solution = _system(SPECTRA[distinct], seed)
    found = conjugate_gradient(product, b, distinct)
    assert _error(found, solution) < 1e-12
    assert np.all(found.is_valid)
    if distinct > 1:
        early = conjugate_gradient(product, b, distinct - 1)
        assert _error(early, solution) > 1e-3


def test_an_eigenvector_takes_one_step():
    matrix = tf.constant([[[2.0, 0.0], [0.0, 7.0]]], tf.float64)
    b = [tf.constant([[0.0, 3.0]], tf.float64)]
    product = lambda v: [tf.linalg.matvec(matrix, v[0])]  # noqa: E731
    for steps in (1, 2, 10):
        found = conjugate_gradient(product, b, steps)
        np.testing.assert_allclose(found.x[0], [[0, 3 / 7]], rtol=1e-15)
        assert np.all(found.is_valid)


def test_more_steps_change_nothing():
    product, b, _ = _system(SPECTRA[5])
    exact = conjugate_gradient(product, b, 5)
    more = conjugate_gradient(product, b, 100, tolerance=1e-12)
    np.testing.assert_allclose(more.x[0], exact.x[0], rtol=1e-10)


def test_each_task_stops_at_its_own_tolerance():
    product, b, solution = _system(SPECTRA[5])
    found = conjugate_gradient(product, b, 100, tolerance=0.1)
    residual = b[0] - product(found.x)[0]
    sizes = tf.norm(residual, axis=-1) / tf.norm(b[0], axis=-1)
    assert np.all(sizes.numpy() <= 0.1)
    # The first one does not go on until the other has arrived.
    assert sizes[0] > 1e-2


def test_the_solution_of_zero_is_zero():
    product, b, _ = _system(SPECTRA[2])
    found = conjugate_gradient(product, [tf.zeros_like(b[0])], 5)
    np.testing.assert_array_equal(found.x[0], np.zeros([2, 5]))
    assert np.all(found.is_valid)


def test_negative_curvature_is_found_for_the_task_that_has_it():
    product, b, solution = _system([[1.0, 2, 3], [1.0, -2, 3]])
    found = conjugate_gradient(product, b, 3)
    assert found.is_valid.numpy().tolist() == [True, False]
    np.testing.assert_allclose(found.x[0][0], solution[0], rtol=1e-12)
    # The other stopped at what it had.
    before = [conjugate_gradient(product, b, k).x[0][1] for k in (1, 2)]
    assert any(np.array_equal(found.x[0][1], x) for x in before)
    assert np.all(np.isfinite(found.x[0]))


def test_negative_curvature_at_once_leaves_a_step_along_the_right_hand_side():
    matrix = tf.constant([[[-4.0, 0.0], [0.0, 1.0]]], tf.float64)
    b = [tf.constant([[2.0, 0.0]], tf.float64)]
    found = conjugate_gradient(lambda v: [tf.linalg.matvec(matrix, v[0])], b, 3)
    np.testing.assert_array_equal(found.x[0], [[0.5, 0.0]])
    assert not found.is_valid[0]


def test_several_tensors_are_one_vector():
    product, b, solution = _system(SPECTRA[5])
    whole = conjugate_gradient(product, b, 3)

    def of_parts(parts):
        joined = tf.concat([parts[0], parts[1][:, :, 0]], axis=1)
        result = product([joined])[0]
        return [result[:, :2], result[:, 2:, tf.newaxis]]

    parts = [b[0][:, :2], b[0][:, 2:, tf.newaxis]]
    found = conjugate_gradient(of_parts, parts, 3)
    np.testing.assert_allclose(found.x[0], whole.x[0][:, :2], rtol=1e-12)
    np.testing.assert_allclose(found.x[1][..., 0], whole.x[0][:, 2:], 1e-12)


@pytest.mark.parametrize("terms", [1, 2, 7])
def test_a_neumann_series_is_the_sum_of_its_terms(terms):
    product, b, _ = _system(SPECTRA[5])
    rate, term, total = 0.15, b[0], tf.zeros_like(b[0])
    for _ in range(terms):
        total += rate * term
        term -= rate * product([term])[0]
    found = neumann_series(product, b, terms, rate)
    np.testing.assert_allclose(found.x[0], total, rtol=1e-12)
    assert np.all(found.is_valid)


def test_a_neumann_series_converges_at_its_rate():
    product, b, solution = _system([[1.0, 2, 4], [1.0, 2, 4]])
    errors = [
        tf.norm(neumann_series(product, b, k, 0.25).x[0] - solution, axis=-1)
        for k in (40, 41)
    ]
    # The slowest direction shrinks by 1 - 0.25 * 1.
    np.testing.assert_allclose(errors[1] / errors[0], [0.75, 0.75], 1e-6)


@pytest.mark.parametrize("rate", [0.6, 10.0])
def test_a_diverging_series_is_found(rate):
    product, b, _ = _system([[1.0, 2, 3], [1.0, 2, 4]])
    # 2 / rate is below the largest eigenvalue of the second task, or both.
    found = neumann_series(product, b, 20, rate)
    assert found.is_valid.numpy().tolist() == [rate * 3 <= 2, False]
