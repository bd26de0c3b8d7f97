import numpy as np
import pytest
import tensorflow as tf

from keras_meta.reinforcement import PointNavigation
from keras_meta.reinforcement import TabularMDP
from keras_meta.reinforcement import roll_out


def test_navigation_is_a_plain_loop():
    environment = PointNavigation(horizon=8)
    goals = np.array([[0.2, -0.1], [-0.4, 0.45], [0.005, 0.0]])
    rng = np.random.default_rng(0)
    # Some actions are clipped, and some rollouts end early.
    gains = rng.uniform(4, 16, [3, 4, 1])

    def act(positions, seed):
        return gains * (goals[:, np.newaxis] - positions)

    seen = roll_out(environment, act, tf.constant(goals), 4, [0, 1])
    lengths = set()
    for task, rollout in np.ndindex(3, 4):
        position, running = np.zeros(2), True
        for t in range(8):
            at = task, rollout, t
            assert seen.running[at] == running
            action = gains[task, rollout] * (goals[task] - position)
            if running:
                np.testing.assert_allclose(seen.observations[at], position)
                np.testing.assert_allclose(seen.actions[at], action)
            position = position + 0.1 * np.clip(action, -1, 1)
            gap = position - goals[task]
            reward = -np.linalg.norm(gap) if running else 0.0
            np.testing.assert_allclose(seen.rewards[at], reward, atol=1e-15)
            running = running and not np.all(np.abs(gap) < 0.01)
        lengths.add(int(np.sum(seen.running[task, rollout])))
    assert len(lengths) > 2 and 1 in lengths
    np.testing.assert_allclose(seen.returns, np.sum(seen.rewards, -1))


def test_goals_are_within_the_square():
    environment = PointNavigation(extent=0.2)
    (goals,) = environment.batches(50, seed=3, num_batches=1)
    assert goals.shape == (50, 2)
    assert np.all(np.abs(goals) <= 0.2)
    assert np.abs(goals).max() > 0.15
    second = next(iter(environment.batches(50, seed=3, start=1)))
    assert not np.any(np.isclose(goals, second))


def test_a_table_says_what_happens():
    rng = np.random.default_rng(0)
    transitions = rng.dirichlet(np.ones(3), [3, 2])
    rewards = rng.normal(size=[2, 3, 2])
    environment = TabularMDP(
        transitions=transitions, rewards=rewards, horizon=5
    )
    tasks = tf.constant([1, 0])
    state = environment.reset(tasks, 6, [0, 1])
    np.testing.assert_array_equal(state.place, np.zeros([2, 6]))
    places = rng.integers(0, 3, [2, 6]).astype("int32")
    actions = rng.integers(0, 2, [2, 6]).astype("int32")
    state = state._replace(place=tf.constant(places))
    np.testing.assert_array_equal(environment.observe(state), np.eye(3)[places])
    moved = environment.step(state, tf.constant(actions), [5, 6])
    drawn = tf.random.stateless_uniform(
        [2, 6], [5, 6], dtype=tf.float64, alg="philox"
    )
    kinds = np.array([[1], [0]])
    np.testing.assert_allclose(moved.reward, rewards[kinds, places, actions])
    for at in np.ndindex(2, 6):
        sums = np.cumsum(transitions[places[at], actions[at]])
        assert moved.state.place[at] == np.argmax(sums > drawn[at])
    assert len(set(moved.state.place.numpy().ravel())) == 3


@pytest.mark.slow
def test_graphs_draw_what_eager_execution_does():
    environment = TabularMDP(
        transitions=np.full([2, 2, 2], 0.5),
        rewards=[[[0, 1], [2, 3]]],
        horizon=4,
    )

    def act(observations, seed):
        uniform = tf.random.stateless_uniform(
            tf.shape(observations)[:2], seed, alg="philox"
        )
        return tf.cast(uniform > 0.5, tf.int32)

    def run(seed):
        return roll_out(environment, act, tf.constant([0]), 5, seed)

    eager = run(tf.constant([0, 1]))
    graph = tf.function(run, autograph=False)
    for a, b in zip(eager, graph(tf.constant([0, 1])), strict=True):
        np.testing.assert_array_equal(a, b)
    other = graph(tf.constant([0, 2]))
    assert not np.array_equal(eager.rewards, other.rewards)
    # Rollouts differ from each other, and so do steps.
    assert len({tuple(x) for x in eager.rewards.numpy()[0]}) > 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rewards": [[0, 1]]}, "`rewards` .tasks, states, actions."),
        ({"transitions": np.full([2, 2, 2], 0.6)}, "add up to 1"),
        ({"horizon": 0}, "`horizon` must be a positive integer"),
    ],
)
def test_bad_tables_are_refused(options, message):
    tables = {
        "transitions": np.full([2, 2, 2], 0.5),
        "rewards": [[[0, 1], [2, 3]]],
    }
    with pytest.raises(ValueError, match=message):
        TabularMDP(**{**tables, **options})
