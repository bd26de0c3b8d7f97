"""Gradients by hyperparameters that are known in closed form."""

import numpy as np
import pytest

import keras_meta
from tests.outer.tuners import gradients
from tests.outer.tuners import linear_data
from tests.outer.tuners import linear_model
from tests.outer.tuners import tuner_of

STRENGTH = 0.3
RATE = 0.05
DATA, VALIDATION = linear_data(), linear_data(8, seed=1)


class Ridge:
    """The loss `|x w - y|^2 / n + strength |w|^2` and its minimum."""

    def __init__(self, data=DATA, strength=STRENGTH, weights=None):
        x, y = data
        shares = np.ones(len(x)) if weights is None else weights
        weighted = x * shares[:, None]
        self.hessian = 2 * weighted.T @ x / len(x)
        self.hessian += 2 * strength * np.eye(x.shape[1])
        self.minimum = np.linalg.solve(
            self.hessian, 2 * weighted.T @ y / len(x)
        )

    def slope(self, weights, validation=VALIDATION):
        """Returns the gradient of the validation loss."""
        x, y = validation
        return 2 * x.T @ (x @ weights - y) / len(x)

    @property
    def of_strength(self):
        """The gradient of the validation loss by `log(strength)`."""
        moved = np.linalg.solve(self.hessian, 2 * self.minimum)
        return -STRENGTH * float((self.slope(self.minimum).T @ moved)[0, 0])


def ridge_gradient(weights, steps=1, rate=RATE, **options):
    model = linear_model(
        regularizer=keras_meta.LearnedL2(STRENGTH), weights=weights
    )
    tuner = tuner_of(model, rate, steps, **options)
    (found,) = gradients(tuner, DATA, VALIDATION)
    return float(found)


# These begin at the minimum, where nothing is left to descend.
at_the_minimum = pytest.mark.filterwarnings("ignore:The inner loop does not")


@at_the_minimum
def test_conjugate_gradient_is_exact_at_the_minimum():
    ridge = Ridge()
    exact = keras_meta.Implicit(steps=3, tolerance=0.0)
    found = ridge_gradient(ridge.minimum, meta_gradient=exact)
    assert found == pytest.approx(ridge.of_strength, rel=1e-9)
    short = keras_meta.Implicit(steps=1)
    found = ridge_gradient(ridge.minimum, meta_gradient=short)
    assert found != pytest.approx(ridge.of_strength, rel=1e-3)


@pytest.mark.slow_variants("1", "15")
@at_the_minimum
@pytest.mark.parametrize("terms", [1, 4, 15])
def test_neumann_series_and_unrolled_steps_agree(terms):
    """Both are `rate sum_k (1 - rate H)^k`, short of the limit by the rest."""
    ridge = Ridge()
    step = np.eye(3) - RATE * ridge.hessian
    rest = np.linalg.matrix_power(step, terms)
    moved = np.linalg.solve(ridge.hessian, 2 * ridge.minimum)
    expected = -STRENGTH * float(
        (ridge.slope(ridge.minimum).T @ (np.eye(3) - rest) @ moved)[0, 0]
    )
    series = keras_meta.Implicit("neumann", steps=terms, rate=RATE)
    found = ridge_gradient(ridge.minimum, meta_gradient=series)
    assert found == pytest.approx(expected, rel=1e-9)
    found = ridge_gradient(ridge.minimum, steps=terms)
    assert found == pytest.approx(expected, rel=1e-9)


def test_unrolled_steps_converge_at_the_predicted_rate():
    """`w[T] = w* + (1 - rate H)^T (w[0] - w*)`, and `w*` moves as well."""
    ridge = Ridge()
    start = np.ones([3, 1])
    rate = 1 / np.linalg.eigvalsh(ridge.hessian).max()
    ratio = 1 - rate * np.linalg.eigvalsh(ridge.hessian).min()

    def loss(log_strength, steps):
        ridge = Ridge(strength=np.exp(log_strength))
        power = np.linalg.matrix_power(np.eye(3) - rate * ridge.hessian, steps)
        weights = ridge.minimum + power @ (start - ridge.minimum)
        x, y = VALIDATION
        return np.mean((x @ weights - y) ** 2)

    found, at, by = {}, np.log(STRENGTH), 1e-5
    for steps in (8, 30, 40):
        found[steps] = ridge_gradient(start, steps=steps, rate=rate)
        difference = loss(at + by, steps) - loss(at - by, steps)
        assert found[steps] == pytest.approx(difference / (2 * by), abs=1e-8)
    errors = [abs(found[steps] - ridge.of_strength) for steps in (30, 40)]
    # The derivative of a power has the number of steps as a factor.
    assert ratio**10 < errors[1] / errors[0] < 2 * ratio**10


@pytest.mark.parametrize("checkpoint", ["off", "sqrt"])
def test_rates_on_quadratics(checkpoint):
    """`d loss / d rate = -T h^2 (1 - rate h)^(2 T - 1) x^2`."""
    steps, start = 6, np.array([[0.5], [-1.0], [2.0]])
    ridge = Ridge(strength=0.0)
    eigenvalues, vectors = np.linalg.eigh(ridge.hessian)
    away = vectors.T @ (start - ridge.minimum)
    power = (1 - RATE * eigenvalues[:, None]) ** (2 * steps - 1)
    expected = -steps * np.sum(eigenvalues[:, None] ** 2 * power * away**2)
    tuner = tuner_of(
        linear_model(weights=start),
        keras_meta.GradientDescent(RATE, learn="scalar"),
        steps,
        start="initial",
        meta_gradient=keras_meta.Unrolled(checkpoint),
    )
    (found,) = gradients(tuner, DATA, DATA)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_first_order_rates_are_those_of_constant_gradients():
    """After one step, first order is exact: nothing came before."""
    start = np.array([[0.5], [-1.0], [2.0]])
    ridge = Ridge(strength=0.0)
    slope = ridge.hessian @ (start - ridge.minimum)
    expected = -float((ridge.slope(start - RATE * slope, DATA).T @ slope)[0, 0])
    tuner = tuner_of(
        linear_model(weights=start),
        keras_meta.GradientDescent(RATE, learn="scalar"),
        start="initial",
        meta_gradient="first_order",
    )
    (found,) = gradients(tuner, DATA, DATA)
    assert float(found) == pytest.approx(expected, rel=1e-6)


@at_the_minimum
def test_weights_of_examples_have_the_gradient_of_their_influence():
    """`-slope H^-1 slope_i / n`: wrong labels lose weight."""
    x, y = linear_data(40, noise=0.01)
    wrong = np.argsort(-np.abs(y[:, 0]))[:3]
    y[wrong] *= -1
    shares = np.full(len(x), 0.5)
    ridge = Ridge((x, y), 0.0, shares)
    residuals = x @ ridge.minimum - y
    clean = linear_data(50, noise=0.01, seed=1)
    solved = np.linalg.solve(ridge.hessian, ridge.slope(ridge.minimum, clean))
    expected = -(2 * residuals * x) @ solved / len(x)
    tuner = tuner_of(
        linear_model(weights=ridge.minimum),
        meta_gradient=keras_meta.Implicit(steps=3, tolerance=0.0),
        example_weights=keras_meta.ExampleWeights(len(x)),
    )
    (found,) = gradients(tuner, (x, y), clean)
    # The slope of a sigmoid at 0.5.
    np.testing.assert_allclose(found, expected[:, 0] / 4, rtol=1e-9)
    assert np.all(found[wrong] > 0)
    assert {*tuner.example_weights.most_suspicious(3)} == {*wrong}
