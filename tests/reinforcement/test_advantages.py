import numpy as np
import pytest
import tensorflow as tf

from keras_meta.reinforcement import Advantages
from keras_meta.reinforcement import LinearFeatureBaseline
from keras_meta.reinforcement import Rollouts

TASKS, ROLLOUTS, TIME = 2, 3, 5
DISCOUNT = 0.9


@pytest.fixture(scope="module")
def rollouts():
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, TIME + 1, [TASKS, ROLLOUTS, 1])
    lengths[0, 0] = TIME
    running = np.arange(TIME) < lengths
    assert not running.all()
    shape = [TASKS, ROLLOUTS, TIME]
    return Rollouts(
        tf.constant(rng.normal(scale=8, size=[*shape, 2])),
        tf.zeros(shape),
        tf.constant(rng.normal(size=shape) * running),
        tf.constant(running),
    )


def returns_to_go(rollouts):
    rewards = rollouts.rewards.numpy()
    found = np.zeros_like(rewards)
    following = np.zeros(rewards.shape[:-1])
    for t in reversed(range(TIME)):
        following = rewards[..., t] + DISCOUNT * following
        found[..., t] = following
    return found


def baseline(rollouts):
    """Ridge regression, task by task, on steps before the end."""
    targets = returns_to_go(rollouts)
    values = np.zeros_like(targets)
    for task in range(TASKS):
        rows, y = [], []
        where = list(np.argwhere(rollouts.running.numpy()[task]))
        for rollout, t in where:
            o = np.clip(rollouts.observations[task, rollout, t], -10, 10)
            time = t / 100
            rows.append([*o, *o**2, time, time**2, time**3, 1])
            y.append(targets[task, rollout, t])
        x = np.array(rows)
        inverse = np.linalg.inv(x.T @ x + 1e-5 * np.eye(x.shape[1]))
        fitted = x @ inverse @ x.T @ y
        for (rollout, t), value in zip(where, fitted, strict=True):
            values[task, rollout, t] = value
    return values


@pytest.mark.parametrize("gae_lambda", [1.0, 0.7])
def test_advantages_are_those_of_a_loop(rollouts, gae_lambda):
    found = Advantages(DISCOUNT, gae_lambda, normalize=False).estimate(rollouts)
    values = baseline(rollouts)
    np.testing.assert_allclose(found.values, values, rtol=1e-6, atol=1e-8)
    rewards, running = rollouts.rewards.numpy(), rollouts.running.numpy()
    for task, rollout in np.ndindex(TASKS, ROLLOUTS):
        at = task, rollout
        length = running[at].sum()
        following, advantage = 0.0, 0.0
        for t in reversed(range(length)):
            gain = rewards[at][t] + DISCOUNT * following - values[at][t]
            advantage = gain + DISCOUNT * gae_lambda * advantage
            following = values[at][t]
            np.testing.assert_allclose(
                found.advantages[at][t], advantage, rtol=1e-6, atol=1e-7
            )
        weights = DISCOUNT ** np.arange(TIME) * running[at]
        np.testing.assert_allclose(found.weights[at], weights)
    assert np.abs(rollouts.observations).max() > 10


def test_normalized_advantages(rollouts):
    plain = Advantages(DISCOUNT, normalize=False).estimate(rollouts)
    found = Advantages(DISCOUNT).estimate(rollouts)
    running = rollouts.running.numpy()
    for task in range(TASKS):
        known = found.advantages.numpy()[task][running[task]]
        assert known.mean() == pytest.approx(0, abs=1e-12)
        assert known.std() == pytest.approx(1 / TIME, rel=1e-6)
    # What `DiCE` takes differs by the same numbers.
    for task in range(TASKS):
        known = running[task]
        scale = plain.advantages.numpy()[task][known].std() * TIME
        center = plain.advantages.numpy()[task][known].mean()
        np.testing.assert_allclose(
            scale * found.rewards[task], plain.rewards[task], rtol=1e-6
        )
        np.testing.assert_allclose(
            (scale * found.values[task] - center)[known],
            plain.values[task][known],
            rtol=1e-6,
        )


def test_a_baseline_takes_nearly_equal_rollouts():
    """In float32, where a normal matrix alone would be singular."""
    line = tf.linspace(0.0, 1.0, 50)
    observations = tf.tile(line[:, tf.newaxis], [1, 2])
    rollouts = Rollouts(
        observations[tf.newaxis, tf.newaxis],
        tf.zeros([1, 1, 50]),
        tf.ones([1, 1, 50]),
        tf.ones([1, 1, 50], tf.bool),
    )
    returns = line[tf.newaxis, tf.newaxis]
    found = LinearFeatureBaseline().fit(rollouts, returns)
    np.testing.assert_allclose(found, returns, atol=1e-4)


@pytest.mark.parametrize("name", ["discount", "gae_lambda"])
def test_bad_factors_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}`.*Received: {name}=1.1"):
        Advantages(**{name: 1.1})
