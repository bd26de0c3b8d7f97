import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta import reinforcement

RATE = 0.2
GOALS = np.array([[0.3, -0.2], [-0.4, 0.1], [0.05, 0.45]])
TASKS, ROLLOUTS, HORIZON = len(GOALS), 3, 2


def policy():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input([2]),
            keras.layers.Dense(5, "tanh", bias_initializer="normal"),
            keras.layers.Dense(2),
            reinforcement.AppendLogStd(0.7),
        ]
    )


def make(optimizer="sgd", **options):
    options = {"rollouts": ROLLOUTS, "seed": 5, **options}
    learner = keras_meta.PolicyLearner(
        policy(),
        reinforcement.PointNavigation(horizon=HORIZON),
        options.pop("update_rule", RATE),
        **options,
    )
    learner.compile(optimizer, run_eagerly=True)
    return learner


def fit(learner, goals=GOALS, **options):
    history = learner.fit(
        goals, batch_size=TASKS, verbose=0, shuffle=False, **options
    ).history
    return {key: values[-1] for key, values in history.items()}


class PlainPolicy:
    """The network of `policy`, as a function of its weights."""

    def outputs(self, weights, x):
        w1, b1, w2, b2, log_std = weights
        mean = tf.tanh(x @ w1 + b1) @ w2 + b2
        return mean, tf.broadcast_to(log_std, tf.shape(mean))

    def log_probs(self, weights, rollouts, task):
        mean, log_std = self.outputs(weights, rollouts.observations[task])
        gaps = (rollouts.actions[task] - mean) / tf.exp(log_std)
        logs = -0.5 * gaps**2 - log_std - 0.5 * np.log(2 * np.pi)
        return tf.reduce_sum(logs, -1)

    def loss(self, weights, acted, task, objective):
        """The objective, written out for one task."""
        logs = self.log_probs(weights, acted.rollouts, task)
        outcomes = [tf.constant(x[task]) for x in acted.outcomes]
        rewards, values, advantages, counts = outcomes
        constant = tf.stop_gradient
        if objective == "score_function":
            terms = logs * advantages
        elif objective == "likelihood_ratio":
            terms = tf.exp(logs - constant(logs)) * advantages
        elif objective == "dice":
            sums = tf.cumsum(logs, 1)
            terms = tf.exp(sums - constant(sums)) * rewards
            terms += (1 - tf.exp(logs - constant(logs))) * values
        return -tf.reduce_mean(tf.reduce_sum(counts * terms, 1))

    def meta_gradient(self, batch, objective, first_order):
        """A loop over tasks, on the rollouts that the learner draws."""
        problem, data = batch.problem, batch.data
        weights = [tf.constant(v.numpy()) for v in batch.variables]
        stacked = [tf.stack([w] * TASKS) for w in weights]
        before = problem.act(weights, data, stacked, 0)
        adapted = []
        for task in range(TASKS):
            with tf.GradientTape() as tape:
                tape.watch(weights)
                loss = self.loss(weights, before, task, objective)
            slopes = tape.gradient(loss, weights)
            adapted.append(
                [w - RATE * g for w, g in zip(weights, slopes, strict=True)]
            )
        ends = [tf.stack(x) for x in zip(*adapted, strict=True)]
        after = problem.act(weights, data, ends, 1)
        with tf.GradientTape() as outer:
            outer.watch(weights)
            losses = []
            for task in range(TASKS):
                with tf.GradientTape() as tape:
                    tape.watch(weights)
                    loss = self.loss(weights, before, task, objective)
                slopes = tape.gradient(loss, weights)
                if first_order:
                    slopes = list(map(tf.stop_gradient, slopes))
                end = [
                    w - RATE * g for w, g in zip(weights, slopes, strict=True)
                ]
                losses.append(self.loss(end, after, task, "likelihood_ratio"))
            total = tf.add_n(losses) / TASKS
        return outer.gradient(total, weights), after


def first_batch(learner):
    """What the first step of `fit` learns from."""
    return learner._training_batch(GOALS, tf.constant(0, tf.int64))


@pytest.mark.slow_variants(
    "dice-unrolled",
    "dice-first_order",
    "likelihood_ratio-first_order",
    "score_function-first_order",
    "score_function-unrolled",
)
@pytest.mark.parametrize("meta_gradient", ["unrolled", "first_order"])
@pytest.mark.parametrize(
    "objective", ["score_function", "likelihood_ratio", "dice"]
)
def test_meta_gradients_are_those_of_a_plain_loop(objective, meta_gradient):
    learner = make(
        keras.optimizers.SGD(1.0),
        objective=objective,
        meta_gradient=meta_gradient,
    )
    expected, after = PlainPolicy().meta_gradient(
        first_batch(learner), objective, meta_gradient == "first_order"
    )
    before = [v.numpy() for v in learner.policy.weights]
    logs = fit(learner)
    for old, v, gradient in zip(
        before, learner.policy.weights, expected, strict=True
    ):
        np.testing.assert_allclose(old - v, gradient, rtol=1e-9, atol=1e-12)
    returns = tf.reduce_mean(after.rollouts.returns)
    assert logs["adapted_return"] == pytest.approx(float(returns), rel=1e-9)


def test_adapted_policies_are_plain_models():
    learner = make(steps=2)
    batch = learner._evaluation_batch(GOALS)
    end = batch.adapt().end
    acted = batch.act(end)
    plain = policy()
    for task in range(TASKS):
        plain.set_weights([w[task] for w in end.params])
        seen = acted.rollouts.observations[task]
        outputs = plain(tf.reshape(seen, [-1, 2]))
        outputs = tf.reshape(outputs, [ROLLOUTS, HORIZON, 4])
        logs = reinforcement.Gaussian().log_prob(
            outputs, acted.rollouts.actions[task]
        )
        np.testing.assert_allclose(acted.log_probs[task], logs, rtol=1e-9)
    assert not np.allclose(end.params[0][0], end.params[0][1])
    # Each step draws rollouts of its own.
    before = batch.problem.act(batch._theta(), batch.data, end.params, 0)
    gaps = before.rollouts.actions - acted.rollouts.actions
    assert np.all(np.abs(gaps[:, :, 0]) > 1e-6)


@pytest.mark.slow
def test_adapt_returns_what_evaluation_measures():
    learner = make(steps=2)
    before = learner.policy.get_weights()
    adapted = learner.adapt(GOALS[0])
    assert isinstance(adapted, keras.Sequential)
    end = learner._evaluation_batch(GOALS[:1]).adapt().end
    for a, b in zip(adapted.get_weights(), end.params, strict=True):
        np.testing.assert_allclose(a, b[0], rtol=1e-9)
    same = learner.adapt(GOALS[0], steps=0)
    np.testing.assert_array_equal(same.get_weights()[0], before[0])
    returns = learner.predict(GOALS, batch_size=TASKS, verbose=0)
    assert returns.shape == (TASKS, 3)
    logs = learner.evaluate(
        GOALS, batch_size=TASKS, verbose=0, return_dict=True
    )
    assert logs["initial_return"] == pytest.approx(returns[:, 0].mean())
    assert logs["adapted_return"] == pytest.approx(returns[:, 2].mean())
    seen = learner.roll_out(GOALS)
    np.testing.assert_allclose(np.mean(seen.returns, 1), returns[:, 2])


@pytest.mark.slow_variants("all")
@pytest.mark.parametrize("adapt", ["all", "head"])
def test_evolution_strategies_measure_perturbed_policies(adapt):
    learner = make(
        meta_gradient=keras_meta.EvolutionStrategies(1, 0.1), adapt=adapt
    )
    batch = first_batch(learner)
    variables = learner.trainable_variables
    rng = np.random.default_rng(0)
    copies = [rng.normal(0, 0.3, [2, *v.shape]) for v in variables]
    rows = [np.repeat(c, TASKS, 0) for c in copies]
    found = batch.task_losses([tf.constant(x) for x in rows], 2)
    for v, values in zip(variables, copies, strict=True):
        v.assign(values[1])
    acted = batch.act(batch.adapt().end)
    expected = batch.problem.discounted_losses(acted)
    np.testing.assert_allclose(found[TASKS:], expected, rtol=1e-9)
    assert not np.allclose(found[:TASKS], expected)


@pytest.mark.slow
def test_evolution_strategies_learn():
    learner = make(
        keras.optimizers.Adam(0.05),
        meta_gradient=keras_meta.EvolutionStrategies(8, 0.1),
        rollouts=10,
    )
    learner.compile(learner.optimizer)
    goals = np.repeat(GOALS[:1], 30 * TASKS, 0)
    first = fit(learner, goals[:TASKS])
    fit(learner, goals)
    assert fit(learner, goals[:TASKS])["loss"] < first["loss"]


@pytest.mark.slow
def test_a_categorical_policy_learns_a_table():
    """In task 0 the first action is right, in task 1 the second."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input([1]), keras.layers.Dense(2, use_bias=False)]
    )
    learner = keras_meta.PolicyLearner(
        model,
        reinforcement.TabularMDP(
            transitions=np.ones([1, 2, 1]),
            rewards=[[[1, 0]], [[0, 1]]],
            horizon=2,
        ),
        5.0,
        steps=3,
        distribution="categorical",
    )
    learner.compile(run_eagerly=True)
    returns = learner.predict(np.array([0, 1]), verbose=0)
    assert np.all(returns[:, 0] < 1.6)
    assert np.all(returns[:, -1] == 2)
    first, second = (learner.adapt(task) for task in (0, 1))
    assert np.argmax(first(np.ones([1, 1]))) == 0
    assert np.argmax(second(np.ones([1, 1]))) == 1


@pytest.mark.slow
def test_training_continues_from_a_file(tmp_path):
    learner = make(
        keras.optimizers.Adam(0.01),
        update_rule=keras_meta.GradientDescent(RATE, "layer"),
        objective=reinforcement.LoadedDiCE(0.5),
        advantages=reinforcement.Advantages(0.9, 0.95),
    )
    fit(learner, epochs=2)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    loaded.run_eagerly = True
    for name in ("environment", "objective", "advantages", "meta_gradient"):
        assert getattr(loaded, name) == getattr(learner, name)
    assert fit(loaded) == fit(learner)
    for a, b in zip(learner.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_a_step_that_fails_changes_nothing():
    learner = make(keras.optimizers.Adam(0.01))
    # Executed eagerly, the goal itself would be refused.
    learner.compile(learner.optimizer)
    fit(learner)
    variables = [*learner.weights, *learner.optimizer.variables]
    before = [v.numpy() for v in variables]
    goals = GOALS.copy()
    goals[1, 0] = np.nan
    with pytest.raises(FloatingPointError, match="task 1 .*undone"):
        fit(learner, goals)
    for v, old in zip(variables, before, strict=True):
        np.testing.assert_array_equal(v, old)


@pytest.mark.slow_variants("True")
@pytest.mark.parametrize("jit", [False, True])
def test_the_number_of_tasks_may_change(jit):
    learner = make()
    learner.compile("sgd", jit_compile=jit)
    returns = [learner.predict(GOALS[:n], verbose=0) for n in (3, 1)]
    learner.compile("sgd", jit_compile=jit)
    alone = learner.predict(GOALS[:1], verbose=0)
    np.testing.assert_allclose(returns[-1], alone, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
def test_the_last_batch_may_be_smaller(jit):
    learner = make()
    before = learner.get_weights()
    learner.compile("sgd", jit_compile=jit)
    learner.fit(GOALS, batch_size=2, verbose=0)
    after = learner.get_weights()
    assert not any(map(np.array_equal, before, after))


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, True])
def test_graphs_learn_too(jit):
    learner = make(keras.optimizers.Adam(0.01), rollouts=20)
    learner.compile(learner.optimizer, jit_compile=jit)
    goals = learner.environment.batches(10, num_batches=30)
    first, *_, last = learner.fit(
        goals.repeat(), steps_per_epoch=30, epochs=3, verbose=0
    ).history["adapted_return"]
    assert last > first + 0.05


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="`objective` must be.*'loaded_dice'"):
        make(objective="ppo")
    with pytest.raises(ValueError, match="`distribution` must be"):
        make(distribution="normal")
    with pytest.raises(TypeError, match="`environment` must be"):
        keras_meta.PolicyLearner(policy(), "point")
    with pytest.raises(ValueError, match="learns from the rewards"):
        make().compile(loss="mse")
    learner = make()
    with pytest.raises(ValueError, match="no end"):
        learner.fit(learner.environment.batches(2))
    with pytest.raises(ValueError, match="are goals.*shape .2, 3."):
        learner(np.ones([2, 3]))
    policy_of_means = keras.Sequential(
        [keras.Input([2]), keras.layers.Dense(3)]
    )
    with pytest.raises(ValueError, match="even number.*AppendLogStd"):
        keras_meta.PolicyLearner(policy_of_means, learner.environment)(GOALS)
