"""Learners that adapt several samples of weights to a task."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.batching.annotations import with_samples
from keras_meta.learners.samples.gaussians import Gaussian
from tests.learners.helpers import adapt_by_hand
from tests.learners.helpers import assert_same_weights
from tests.learners.helpers import call_with
from tests.learners.helpers import compiled
from tests.learners.helpers import crossentropy
from tests.learners.helpers import descent
from tests.learners.helpers import mlp
from tests.learners.helpers import refuses
from tests.learners.helpers import regression

SCALE = 0.5


def _nll():
    return keras_meta.GaussianNLL(SCALE)


def _probabilistic(model, rate=0.1, **options):
    return compiled(
        keras_meta.ProbabilisticMAML(model, rate, **options), loss=_nll()
    )


def _zeros_like_noise(learner, samples, tasks):
    return [
        tf.zeros([samples, tasks, *v.shape], v.dtype)
        for v in learner.model.trainable_variables
    ]


# Distributions.


def _gaussian(means, scales):
    logs = [tf.math.log(tf.constant(s, tf.float64)) for s in scales]
    return Gaussian([tf.constant(m, tf.float64) for m in means], logs)


def test_the_divergence_is_the_integral():
    # Gauss-Hermite quadrature is exact for the quadratic log ratio.
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    weights /= weights.sum()
    q = _gaussian([[[0.3, -1.0]], [[2.0]]], [[0.5, 2.0], [0.1]])
    p = _gaussian([[[0.0, 1.0]], [[1.5]]], [[1.0, 0.7], [0.2]])
    expected = 0.0
    for m, t, n, s in [(0.3, 0.5, 0, 1), (-1, 2, 1, 0.7), (2, 0.1, 1.5, 0.2)]:
        x = m + t * nodes
        log_ratio = math.log(s / t) - nodes**2 / 2 + ((x - n) / s) ** 2 / 2
        expected += weights @ log_ratio
    np.testing.assert_allclose(q.divergence(p), [expected], rtol=1e-12)
    np.testing.assert_allclose(q.divergence(q), [0.0], atol=1e-15)


def test_the_gradient_of_the_divergence_is_the_gap_over_the_variance():
    mean = tf.constant([[0.3, -1.0]], tf.float64)
    p = _gaussian([[[0.0, 1.0]]], [[1.0, 0.7]])
    with tf.GradientTape() as tape:
        tape.watch(mean)
        q = Gaussian([mean], [tf.zeros([2], tf.float64)])
        divergence = q.divergence(p)
    np.testing.assert_allclose(
        tape.gradient(divergence, mean), [[0.3, -2.0 / 0.49]], rtol=1e-12
    )


# Probabilistic MAML.


def _evidence(prior_scale, y):
    """Returns -log p(y) / n where y = w + noise, with w ~ N(0, scale^2)."""
    n = len(y)
    covariance = SCALE**2 * np.eye(n) + prior_scale**2
    return (
        y @ np.linalg.solve(covariance, y)
        + np.linalg.slogdet(covariance)[1]
        + n * math.log(2 * math.pi)
    ) / (2 * n)


def _linear_gaussian(prior_scale, variance, rate):
    """A learner of `y = w` whose posterior is given."""
    model = keras.Sequential(
        [
            keras.Input([1]),
            keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros"),
        ]
    )
    learner = _probabilistic(
        model,
        0.0,
        training_samples=2,
        prior_rule=0.0,
        posterior_rule=rate,
    )
    learner.prior_log_scales[0].assign([[math.log(prior_scale)]])
    learner.posterior_log_scales[0].assign([[math.log(variance) / 2]])
    return learner


@pytest.mark.parametrize("factor", [1.0, 0.8])
def test_the_bound_is_the_evidence_at_the_exact_posterior(float64, factor):
    y = np.array([0.7, -0.2, 1.5])
    n, prior_scale = len(y), 0.8
    variance = 1 / (1 / prior_scale**2 + n / SCALE**2)
    # One step from 0 along the gradient of the mean, -mean(y) / SCALE^2.
    rate = factor * variance * n
    learner = _linear_gaussian(prior_scale, factor * variance, rate)
    ones = tf.ones([1, n, 1], tf.float64)
    data = {"support_x": ones, "support_y": ones, "query_x": ones}
    # The bound is quadratic in the noise, so two opposite draws are exact.
    noise = [tf.constant([1.0, -1.0], tf.float64)[:, None, None, None]]
    bound, _ = learner.bound(data, tf.constant(y[None, :, None]), None, noise)
    evidence = _evidence(prior_scale, y)
    if factor == 1.0:
        np.testing.assert_allclose(bound, evidence, rtol=1e-12)
    else:
        assert bound > evidence + 1e-3


@pytest.mark.slow
def test_without_noise_it_is_maml(float64):
    x, y = regression(seed=1)
    model = mlp()
    learner = _probabilistic(
        model, steps=2, kl_weight=0.0, prior_rule=0.0, posterior_rule=0.0
    )
    maml = compiled(keras_meta.MAML(model, 0.1, 2), loss=_nll())
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        noise = _zeros_like_noise(learner, 1, len(y))
        loss, _ = learner.bound(
            keras.tree.map_structure(tf.constant, x),
            tf.constant(y),
            None,
            noise,
        )
    with tf.GradientTape() as other:
        expected, _ = maml.outer_loss(x, tf.constant(y))
    np.testing.assert_allclose(loss, expected, rtol=1e-13)
    for a, b in zip(
        tape.gradient(loss, variables),
        other.gradient(expected, variables),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-13)


def _bound_by_hand(learner, x, y, noise, rates):
    """Algorithm 1 of the paper, task by task and sample by sample."""
    model, loss = learner.model, _nll()
    variables = model.trainable_variables
    scales = [
        [tf.exp(v.value) for v in logs]
        for logs in (learner.posterior_log_scales, learner.prior_log_scales)
    ]
    losses, divergences = [], []
    for task in range(len(y)):
        support = x["support_x"][task], x["support_y"][task]
        query = x["query_x"][task], y[task]
        means = adapt_by_hand(model, *query, loss, descent(rates[1]), 1)
        prior = adapt_by_hand(model, *support, loss, descent(rates[0]), 1)
        for m, n, t, s in zip(means, prior, *scales, strict=True):
            divergences.append(
                tf.reduce_sum(
                    tf.math.log(s / t) + (t**2 + (m - n) ** 2) / (2 * s**2)
                )
                - tf.size(m, tf.int64).numpy() / 2
            )
        for sample in range(learner.training_samples):
            values = [
                m + t * e[sample, task]
                for m, t, e in zip(means, scales[0], noise, strict=True)
            ]
            with tf.GradientTape() as tape:
                tape.watch(values)
                output = call_with(model, variables, values, support[0])
                error = loss(support[1], output)
            grads = tape.gradient(error, values)
            values = [v - 0.1 * g for v, g in zip(values, grads, strict=True)]
            output = call_with(model, variables, values, query[0])
            losses.append(loss(query[1], output))
    queries = y.shape[1]
    return tf.reduce_mean(losses) + 0.7 * tf.add_n(divergences) / (
        len(y) * queries
    )


def test_the_bound_is_that_of_the_paper(float64):
    x, y = regression(tasks=2, seed=1)
    learner = _probabilistic(
        mlp(),
        training_samples=2,
        scale=0.3,
        kl_weight=0.7,
        prior_rule=0.05,
        posterior_rule=0.2,
    )
    rng = np.random.default_rng(0)
    for variable in learner.prior_log_scales + learner.posterior_log_scales:
        variable.assign(variable + 0.3 * rng.normal(size=variable.shape))
    noise = [
        tf.constant(rng.normal(size=[2, 2, *v.shape]))
        for v in learner.model.trainable_variables
    ]
    data = keras.tree.map_structure(tf.constant, x)
    variables = learner.trainable_variables
    with tf.GradientTape() as tape:
        loss, predictions = learner.bound(data, tf.constant(y), None, noise)
    with tf.GradientTape() as other:
        expected = _bound_by_hand(learner, data, y, noise, (0.05, 0.2))
    assert predictions.shape == (2, 4, 2, 1)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    for a, b in zip(
        tape.gradient(loss, variables),
        other.gradient(expected, variables),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)


def test_predictions_do_not_depend_on_other_tasks():
    learner = _probabilistic(mlp(), samples=3)
    x, _ = regression(seed=1)
    alone = {name: value[1:2] for name, value in x.items()}
    together = learner(x)
    assert together.shape == (3, 4, 3, 1)
    np.testing.assert_allclose(learner(alone)[0], together[1], rtol=1e-5)
    before = together.numpy()
    learner.redraw(7)
    assert not np.allclose(learner(x), before)
    learner.redraw(0)
    np.testing.assert_array_equal(learner(x), before)


def test_adapting_returns_the_samples_as_a_plain_model(tmp_path):
    learner = _probabilistic(mlp(), samples=3)
    x, _ = regression(seed=1)
    model = learner.adapt(x["support_x"][2], x["support_y"][2])
    expected = learner(x)[2]
    np.testing.assert_allclose(model(x["query_x"][2]), expected, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(x["query_x"][2]), expected, rtol=1e-5)


# Ensembles.


@pytest.mark.slow
def test_one_member_is_maml():
    x, y = regression(seed=1)
    single = compiled(keras_meta.MAML(mlp(), 0.1, 2))
    members = keras_meta.MAMLEnsemble(
        keras.models.clone_model(single.model), 0.1, 2, particles=1
    )
    members.model.set_weights(single.model.get_weights())
    for variable, value in zip(
        members.trainable_variables, single.model.weights, strict=True
    ):
        variable.assign(value[None])
    members = compiled(members)
    assert members.train_on_batch(x, y) == pytest.approx(
        single.train_on_batch(x, y)
    )
    np.testing.assert_allclose(members(x)[:, :, 0], single(x), rtol=1e-4)


def test_members_learn_apart():
    x, y = regression(seed=1)
    learner = compiled(keras_meta.MAMLEnsemble(mlp(), 0.1, 2, particles=3))
    with tf.GradientTape() as tape:
        predictions = learner(x, training=True)
        second = tf.reduce_mean((predictions[:, :, 1] - y) ** 2)
    for gradient in tape.gradient(second, learner.trainable_variables):
        assert np.any(gradient[1] != 0)
        np.testing.assert_array_equal(tf.gather(gradient, [0, 2]), 0)
    rows = [v.numpy() for v in learner.trainable_variables]
    for row, variable in zip(rows, learner.model.weights, strict=True):
        np.testing.assert_array_equal(row[0], variable)
    assert np.any(rows[0][1] != rows[0][2])


# Bayesian MAML.


def _chaser_by_hand(learner, x, y, steps):
    """The chaser loss, task by task."""
    rule = learner.update_rule
    model = learner.model
    variables = model.trainable_variables
    loss = keras.losses.MeanSquaredError()
    total = 0.0
    for task in range(len(y)):

        def move(particles, inputs, labels):
            grads = []
            for values in particles:
                with tf.GradientTape() as tape:
                    tape.watch(values)
                    output = call_with(model, variables, values, inputs)
                    error = loss(labels, output)
                grads.append(tape.gradient(error, values))
            stacked = [tf.stack(p) for p in zip(*particles, strict=True)]
            slopes = [tf.stack(g) for g in zip(*grads, strict=True)]
            directions = rule.directions(stacked, slopes)
            moved = [
                p - 0.1 * d for p, d in zip(stacked, directions, strict=True)
            ]
            return list(zip(*map(tf.unstack, moved), strict=True))

        x_s, y_s = x["support_x"][task], x["support_y"][task]
        values = [tf.unstack(v.value) for v in learner.trainable_variables]
        followers = list(zip(*values, strict=True))
        for _ in range(steps):
            followers = move(followers, x_s, y_s)
        both = (
            np.concatenate([x_s, x["query_x"][task]]),
            np.concatenate([y_s, y[task]]),
        )
        leaders = followers
        for _ in range(learner.leader_steps):
            leaders = move(leaders, *both)
        for follower, leader in zip(followers, leaders, strict=True):
            for f, to in zip(follower, leader, strict=True):
                total += tf.reduce_sum((f - tf.stop_gradient(to)) ** 2)
    return total / len(y)


def test_the_chaser_loss_is_that_of_the_paper(float64):
    x, y = regression(tasks=2, seed=1)
    learner = compiled(
        keras_meta.BayesianMAML(
            mlp(), 0.1, 2, particles=3, leader_steps=2, temperature=0.3
        )
    )
    variables = learner.trainable_variables
    with tf.GradientTape() as tape:
        loss, predictions = learner.outer_loss(x, tf.constant(y))
    with tf.GradientTape() as other:
        expected = _chaser_by_hand(learner, x, y, steps=2)
    assert predictions.shape == (2, 4, 3, 1)
    np.testing.assert_allclose(loss, expected, rtol=1e-11)
    for a, b in zip(
        tape.gradient(loss, variables),
        other.gradient(expected, variables),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)


def test_one_particle_adapts_as_maml():
    x, _ = regression(seed=1)
    model = mlp()
    learner = compiled(keras_meta.BayesianMAML(model, 0.1, 2, particles=1))
    single = compiled(keras_meta.MAML(model, 0.1, 2))
    np.testing.assert_allclose(learner(x)[:, :, 0], single(x), rtol=1e-5)


# Losses and metrics.


def test_the_loss_is_the_mean_over_samples_and_metrics_see_their_mean():
    learner = keras_meta.MAMLEnsemble(mlp(), 0.1, particles=3)
    nll = keras_meta.PredictiveNLL(_nll())
    metrics = ["mse", nll, keras_meta.Coverage(SCALE, deviations=1.5)]
    learner = compiled(learner, loss=_nll(), metrics=metrics)
    x, y = regression(batches=1, seed=1)
    data = tf.data.Dataset.from_tensor_slices((x, y))
    samples = learner(keras.tree.map_structure(lambda a: a[0], x)).numpy()
    gaps = samples - y[0][:, :, None]
    each = (gaps / SCALE) ** 2 / 2 + math.log(SCALE * math.sqrt(2 * math.pi))
    deviation = np.sqrt(samples.var(axis=2) + SCALE**2)
    expected = {
        "loss": each.mean(),
        "mse": (gaps.mean(axis=2) ** 2).mean(),
        "predictive_nll": -np.log(np.exp(-each).mean(axis=2)).mean(),
        "coverage": np.mean(np.abs(gaps.mean(axis=2)) <= 1.5 * deviation),
    }
    actual = learner.evaluate(data, verbose=0, return_dict=True)
    assert actual == pytest.approx(expected, rel=1e-5)
    by_task = keras_meta.evaluate_tasks(learner, data, tasks=3)
    assert {k: v.mean for k, v in by_task.items()} == pytest.approx(
        expected, rel=1e-5
    )


@pytest.mark.parametrize("binary", [False, True])
def test_logits_of_samples_mix_as_probabilities(binary):
    from keras_meta.learners.samples.samples import mixture

    logits = tf.random.stateless_normal([2, 4, 3, 2], [0, 1])
    if binary:
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        expected = tf.reduce_mean(tf.sigmoid(logits), axis=2)
        actual = tf.sigmoid(mixture(logits, loss))
    else:
        expected = tf.reduce_mean(tf.nn.softmax(logits), axis=2)
        actual = tf.nn.softmax(mixture(logits, crossentropy()))
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_a_prediction_without_samples_is_one_sample():
    nll = keras_meta.PredictiveNLL("mse")
    nll.update_state([[1.0]], [[3.0]])
    assert float(nll.result()) == pytest.approx(4.0)
    mean = with_samples(tf.constant([[2.0]]), tf.constant([[[1.0], [3.0]]]))
    nll.reset_state()
    nll.update_state([[1.0]], mean)
    expected = -math.log((1 + math.exp(-4)) / 2)
    assert float(nll.result()) == pytest.approx(expected)


@pytest.mark.parametrize(
    "made",
    [
        lambda: keras_meta.GaussianNLL(0.3, name="noise"),
        lambda: keras_meta.PredictiveNLL(keras_meta.GaussianNLL(0.3)),
        lambda: keras_meta.Coverage(0.3, deviations=1.0),
    ],
)
def test_likelihoods_are_remade_from_their_config(made):
    one = made()
    other = type(one).from_config(one.get_config())
    assert other.get_config() == one.get_config()


# Refusals.


def test_what_samples_cannot_do_is_refused():
    make = keras_meta.MAMLEnsemble
    with refuses(ValueError, "where inner loops begin.*start='drawn'"):
        make(mlp(), start="drawn")
    with refuses(ValueError, "where inner loops begin.*proximal=1.0"):
        make(mlp(), proximal=1.0)
    with refuses(ValueError, "goes back through.*EvolutionStrategies"):
        make(mlp(), meta_gradient="evolution_strategies")
    with refuses(ValueError, "goes back through.*Implicit"):
        make(mlp(), meta_gradient="implicit")
    learner = compiled(make(mlp(), particles=2))
    with refuses(ValueError, "Pass `steps` to keras_meta.evaluate_tasks"):
        learner.trajectory(regression()[0])
    with refuses(ValueError, "`redraw` would overwrite"):
        learner.redraw(1)
    with refuses(ValueError, "`scale`.*Received.*0"):
        keras_meta.ProbabilisticMAML(mlp(), scale=0.0)


@pytest.mark.slow
def test_moving_averages_are_kept_once():
    model = keras.Sequential(
        [
            keras.Input([2]),
            keras.layers.Dense(3),
            keras.layers.BatchNormalization(momentum=0.5),
            keras.layers.Dense(1),
        ]
    )
    x, y = regression(seed=1)
    options = {"batch_statistics": "running"}
    single = compiled(keras_meta.MAML(model, 0.1, **options))
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    members = keras_meta.MAMLEnsemble(copy, 0.1, particles=1, **options)
    members = compiled(members)
    single.train_on_batch(x, y)
    members.train_on_batch(x, y)
    moved = [v.numpy() for v in model.non_trainable_variables]
    kept = [v.numpy() for v in copy.non_trainable_variables]
    assert_same_weights(moved, kept, rtol=1e-5)
