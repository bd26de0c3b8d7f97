"""Exact derivatives: expectations are sums over all that can happen."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from keras_meta.reinforcement import Advantages
from keras_meta.reinforcement import DiCE
from keras_meta.reinforcement import LikelihoodRatio
from keras_meta.reinforcement import LoadedDiCE
from keras_meta.reinforcement import Outcomes
from keras_meta.reinforcement import Rollouts
from keras_meta.reinforcement import ScoreFunction

DISCOUNT = 0.9
HORIZON = 3
# transitions[s, a] are the probabilities of the next state.
TRANSITIONS = np.array([[[0.7, 0.3], [0.2, 0.8]], [[0.6, 0.4], [0.1, 0.9]]])
REWARDS = np.array([[1.0, -0.5], [0.3, 2.0]])
LOGITS = np.array([[0.4, -0.3], [-0.2, 0.5]])


def derivatives(function, x):
    """Returns the first and the second derivative of a scalar function."""
    x = tf.constant(x, tf.float64)
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = function(x)
        first = inner.gradient(y, x)
    second = outer.jacobian(first, x, experimental_use_pfor=False)
    return first.numpy(), second.numpy()


def expected_loss(objective, probabilities, log_probs, outcomes):
    """Returns the mean of a loss; each rollout is a task of its own."""
    losses = objective.losses(log_probs[:, tf.newaxis], outcomes)
    return tf.reduce_sum(probabilities * losses)


class Bandit:
    """One action from N(theta, sigma^2), with the reward -(a - g)^2."""

    theta, sigma, goal = 0.7, 0.6, -0.4
    mean_reward = -((theta - goal) ** 2 + sigma**2)

    def __init__(self):
        # Exact for polynomials of degree 15.
        nodes, weights = np.polynomial.hermite_e.hermegauss(8)
        self.actions = (self.theta + self.sigma * nodes)[:, np.newaxis]
        self.probabilities = weights / np.sqrt(2 * np.pi)

    def derivatives_of(self, objective, baseline):
        rewards = -np.square(self.actions - self.goal)[:, np.newaxis]
        outcomes = Outcomes(
            rewards,
            np.full_like(rewards, baseline),
            rewards - baseline,
            np.ones_like(rewards),
        )

        def loss(theta):
            gaps = (self.actions - theta) / self.sigma
            return expected_loss(
                objective, self.probabilities, -tf.square(gaps) / 2, outcomes
            )

        first, second = derivatives(loss, self.theta)
        return -first, -second


@pytest.mark.parametrize(
    "objective", [LikelihoodRatio(), DiCE(), LoadedDiCE(0.5)]
)
@pytest.mark.parametrize("baseline", [0.0, Bandit.mean_reward])
def test_the_curvature_of_a_bandit_is_exact(objective, baseline):
    first, second = Bandit().derivatives_of(objective, baseline)
    exact = -2 * (Bandit.theta - Bandit.goal)
    np.testing.assert_allclose([first, second], [exact, -2], rtol=1e-12)


def test_the_score_function_has_the_wrong_curvature():
    bandit = Bandit()
    slope = -2 * (bandit.theta - bandit.goal)
    wrong = -bandit.mean_reward / bandit.sigma**2
    assert wrong > 0
    found = bandit.derivatives_of(ScoreFunction(), 0.0)
    np.testing.assert_allclose(found, [slope, wrong], rtol=1e-12)
    # So the meta-gradient is that of first-order MAML.
    found = bandit.derivatives_of(ScoreFunction(), bandit.mean_reward)
    np.testing.assert_allclose(found, [slope, 0], atol=1e-12)


class Walks:
    """All walks of three steps through two states."""

    def __init__(self):
        walks = [
            (np.array([0, s1, s2]), np.array(actions))
            for s1, s2 in itertools.product([0, 1], repeat=2)
            for actions in itertools.product([0, 1], repeat=HORIZON)
        ]
        self.states, self.actions = map(np.stack, zip(*walks, strict=True))
        self.rewards = REWARDS[self.states, self.actions]
        moves = TRANSITIONS[
            self.states[:, :-1], self.actions[:, :-1], self.states[:, 1:]
        ]
        self.chances = moves.prod(1)
        self.probabilities = self.chances * np.exp(
            self.log_probs(LOGITS).numpy().sum(1)
        )

    def log_probs(self, logits):
        logits = tf.reshape(logits, [2, 2])
        places = np.stack([self.states, self.actions], -1)
        return tf.gather_nd(tf.nn.log_softmax(logits), places)

    def expected_return(self, logits):
        likely = tf.exp(tf.reduce_sum(self.log_probs(logits), 1))
        returns = (self.rewards * DISCOUNT ** np.arange(HORIZON)).sum(1)
        return tf.reduce_sum(self.chances * likely * returns)

    def outcomes(self, values):
        """What became of all walks, with a baseline `[states, time]`."""
        rewards = self.rewards[:, np.newaxis]
        rollouts = Rollouts(
            np.eye(2)[self.states][:, np.newaxis],
            self.actions[:, np.newaxis],
            tf.constant(rewards),
            tf.ones(rewards.shape, tf.bool),
        )
        plain = Advantages(DISCOUNT, baseline=None, normalize=False)
        found = plain.estimate(rollouts)
        guess = values[self.states, np.arange(HORIZON)][:, np.newaxis]
        return found._replace(values=guess, advantages=found.advantages - guess)

    def derivatives_of(self, objective, values):
        outcomes = self.outcomes(values)

        def loss(logits):
            return expected_loss(
                objective,
                self.probabilities,
                self.log_probs(logits),
                outcomes,
            )

        first, second = derivatives(loss, LOGITS.ravel())
        return -first, -second

    def curvature(self, values, squares, decay):
        """The mean second derivative of a surrogate, term by term.

        Args:
            values: The baseline.
            squares: Whether it has the squares of the scores of a step.
            decay: How much it has of the products of scores of two steps.
        """
        advantages = self.outcomes(values).advantages.numpy()[:, 0]
        shares = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
        total = np.zeros([4, 4])
        for walk, probability in enumerate(self.probabilities):
            earlier = np.zeros([4])
            for t in range(HORIZON):
                state, action = self.states[walk, t], self.actions[walk, t]
                share, place = shares[state], slice(2 * state, 2 * state + 2)
                score, second = np.zeros([4]), np.zeros([4, 4])
                score[place] = np.eye(2)[action] - share
                second[place, place] = np.outer(share, share) - np.diag(share)
                second += squares * np.outer(score, score)
                earlier *= decay
                second += np.outer(earlier, score) + np.outer(score, earlier)
                earlier += score
                weight = DISCOUNT**t * advantages[walk, t]
                total += probability * weight * second
        return total


BASELINES = {
    "none": np.zeros([2, HORIZON]),
    "any": np.array([[0.3, -1.0, 0.6], [2.0, 0.1, -0.4]]),
}


@pytest.fixture(scope="module")
def walks():
    return Walks()


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize(
    "objective",
    [ScoreFunction(), LikelihoodRatio(), DiCE(), LoadedDiCE(), LoadedDiCE(0.5)],
    ids=str,
)
def test_expected_derivatives_of_walks(walks, objective, baseline):
    assert walks.probabilities.sum() == pytest.approx(1)
    exact = derivatives(walks.expected_return, LOGITS.ravel())
    values = BASELINES[baseline]
    first, second = walks.derivatives_of(objective, values)
    np.testing.assert_allclose(first, exact[0], rtol=1e-12)
    if isinstance(objective, DiCE) or objective == LoadedDiCE(1.0):
        np.testing.assert_allclose(second, exact[1], rtol=1e-11)
        return
    assert np.abs(second - exact[1]).max() > 0.05
    decay = getattr(objective, "decay", 0.0)
    squares = not isinstance(objective, ScoreFunction)
    np.testing.assert_allclose(
        second, walks.curvature(values, squares, decay), rtol=1e-11
    )


def test_the_terms_of_the_curvature_add_up(walks):
    _, exact = derivatives(walks.expected_return, LOGITS.ravel())
    for values in BASELINES.values():
        found = walks.curvature(values, squares=True, decay=1.0)
        np.testing.assert_allclose(found, exact, rtol=1e-12)


def test_a_loaded_dice_that_forgets_is_the_likelihood_ratio(walks):
    values = BASELINES["any"]
    for found, expected in zip(
        walks.derivatives_of(LoadedDiCE(0.0), values),
        walks.derivatives_of(LikelihoodRatio(), values),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_bad_decays_are_refused():
    with pytest.raises(ValueError, match=r"`decay`.*Received: decay=1\.5"):
        LoadedDiCE(1.5)
