"""Runs that are cut into windows, after each of which is learned."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.outer import example_data
from tests.outer.tuners import fit
from tests.outer.tuners import gradients
from tests.outer.tuners import linear_data
from tests.outer.tuners import linear_model
from tests.outer.tuners import tuner_of

DATA, VALIDATION = linear_data(), linear_data(8, seed=1)
BATCH, LENGTH, WINDOWS, RATE = 5, 2, 2, 0.02
FIRST = np.ones([3, 1])


def scheduled(
    meta_gradient, steps=LENGTH * WINDOWS, learn="schedule", **options
):
    """A learner of a decay and of a schedule, `[decay, first, last]`."""
    return tuner_of(
        linear_model(
            regularizer=keras_meta.LearnedL2(0.1, name="decay"), weights=FIRST
        ),
        keras_meta.Momentum(0.05, learn=learn, momentum=0.5),
        steps,
        rate=RATE,
        meta_gradient=meta_gradient,
        **options,
    )


def theta_of(tuner):
    return np.concatenate([np.ravel(v) for v in tuner.trainable_variables])


def batches(window):
    """The training examples of each step of a window."""
    examples, _ = example_data.load("data", DATA)
    windows = example_data.Windows(
        examples, examples, BATCH, BATCH, LENGTH, LENGTH, seed=0
    )
    by_step = windows.window(tf.constant(window, tf.int64))["by_step"]
    return zip(by_step["x"].numpy(), by_step["y"].numpy(), strict=True)


def rate_of(theta, step):
    """The rate of a step."""
    if len(theta) == 2:
        return theta[1]
    share = step / (LENGTH * WINDOWS - 1)
    return np.exp((1 - share) * theta[1] + share * theta[2])


def train(theta, carry, window, first):
    """Takes the steps of a window; returns the carry and the loss after it."""
    weights, velocity = carry
    for step, (x, y) in enumerate(batches(window), first):
        slope = 2 * x.T @ (x @ weights - y) / len(x)
        velocity = 0.5 * velocity + slope + 2 * np.exp(theta[0]) * weights
        weights = weights - rate_of(theta, step) * velocity
    x, y = VALIDATION
    return (weights, velocity), np.mean((x @ weights - y) ** 2)


def by_hand(strategy, theta, ended, windows):
    """Follows the meta-parameters and the weights, pair by pair.

    Args:
        strategy: The meta-gradient.
        theta: The meta-parameters.
        ended: Windows after which a run begins anew.
        windows: How many to take.
    """
    pairs, sigma = strategy.particles, strategy.sigma
    for window in range(windows):
        if window % ended == 0:
            fresh = FIRST, np.zeros_like(FIRST)
            center, total, reused = fresh, 0.0, None
            rows = [[fresh, fresh] for _ in range(pairs)]
        shapes = [(), () if len(theta) == 2 else (2,)]
        seed = tf.constant([strategy.seed, window], tf.int64)
        noise = strategy.noise(
            [tf.zeros(shape, tf.float64) for shape in shapes], seed
        )
        noise = [np.reshape(one, [pairs, -1]) for one in noise]
        noise = np.concatenate(noise, axis=1)
        total = total + noise
        reused = noise if reused is None else reused
        perturbs, credited = {
            "PersistentES": (noise, total),
            "NoiseReuseES": (reused, reused),
            "EvolutionStrategies": (noise, noise),
        }[type(strategy).__name__]
        position = window % ended * LENGTH
        gradient = 0.0
        for i in range(pairs):
            losses = [0.0, 0.0]
            for twin, sign in enumerate([1, -1]):
                rows[i][twin], losses[twin] = train(
                    theta + sign * sigma * perturbs[i],
                    rows[i][twin],
                    window,
                    position,
                )
            slope = (losses[0] - losses[1]) / (2 * sigma)
            gradient = gradient + slope * credited[i] / pairs
        center, _ = train(theta, center, window, position)
        theta = theta - RATE * gradient
    return theta, center[0]


@pytest.mark.slow_variants("NoiseReuseES", "EvolutionStrategies")
@pytest.mark.parametrize(
    "name", ["PersistentES", "NoiseReuseES", "EvolutionStrategies"]
)
def test_particles_are_those_of_a_plain_loop(name):
    strategy = getattr(keras_meta, name)(
        2, sigma=0.1, length=LENGTH, seed=3, draws="rademacher"
    )
    tuner = scheduled(strategy, start="initial")
    # A run and the first window of the next.
    windows = WINDOWS + 1
    theta, weights = by_hand(strategy, theta_of(tuner), WINDOWS, windows)
    fit(tuner, DATA, VALIDATION, BATCH, windows, validation_batch_size=8)
    np.testing.assert_allclose(theta_of(tuner), theta, rtol=1e-9)
    found = tuner.model.get_weights()[0]
    np.testing.assert_allclose(found, weights, rtol=1e-9)


@pytest.mark.slow
def test_particles_of_a_kept_run_never_begin_anew():
    strategy = keras_meta.PersistentES(2, sigma=0.1)
    tuner = scheduled(strategy, LENGTH, "scalar")
    theta, weights = by_hand(strategy, theta_of(tuner), 99, 3)
    fit(tuner, DATA, VALIDATION, BATCH, 3, validation_batch_size=8)
    np.testing.assert_allclose(theta_of(tuner), theta, rtol=1e-9)
    found = tuner.model.get_weights()[0]
    np.testing.assert_allclose(found, weights, rtol=1e-9)


def test_truncated_windows_take_the_weights_before_them_as_constants():
    """The second window of a run is a run from where the first has ended."""
    tuner = scheduled(keras_meta.Truncated(LENGTH), start="initial")
    tuner.optimizer.learning_rate = 0.0
    fit(tuner, DATA, VALIDATION)
    middle = tuner.model.get_weights()[0]
    found = gradients_at(tuner, 1.0)
    assert np.any(middle != FIRST)

    def loss(theta):
        before = train_whole(np.zeros_like(theta), theta_of(tuner), FIRST, 0)
        return train_whole(theta, theta_of(tuner), middle, LENGTH, before[1])[2]

    np.testing.assert_allclose(found, central(loss, 3), rtol=1e-6)


def gradients_at(tuner, rate):
    tuner.optimizer.learning_rate = rate
    found = gradients(tuner, DATA, VALIDATION)
    for variable, gradient in zip(
        tuner.trainable_variables, found, strict=True
    ):
        variable.assign_add(gradient)
    return np.concatenate([np.ravel(g) for g in found])


def train_whole(change, theta, weights, first, velocity=0.0):
    """Takes the steps of a window, each on all examples."""
    theta, (x, y) = theta + change, DATA
    for step in range(first, first + LENGTH):
        slope = 2 * x.T @ (x @ weights - y) / len(x)
        velocity = 0.5 * velocity + slope + 2 * np.exp(theta[0]) * weights
        weights = weights - rate_of(theta, step) * velocity
    x, y = VALIDATION
    return weights, velocity, np.mean((x @ weights - y) ** 2)


def central(function, size, step=1e-5):
    return [
        (function(step * way) - function(-step * way)) / (2 * step)
        for way in np.eye(size)
    ]


def test_drawn_runs_draw_once_a_run():
    """The weights at the beginning of a run, seen through a rate of almost 0.

    Each of two runs has its own, which last for all its windows.
    """
    tuner = tuner_of(
        linear_model(regularizer=keras_meta.LearnedL2(0.1)),
        keras_meta.GradientDescent(1e-12, learn="schedule"),
        LENGTH * WINDOWS,
        rate=0.0,
        start="drawn",
        meta_gradient=keras_meta.Truncated(LENGTH),
    )
    losses = [
        round(fit(tuner, DATA, VALIDATION)["loss"], 6)
        for _ in range(2 * WINDOWS)
    ]
    assert len({*losses[:WINDOWS]}) == len({*losses[WINDOWS:]}) == 1
    assert losses[0] != losses[-1]


@pytest.mark.slow
def test_an_epoch_is_a_run_and_restart_begins_one():
    tuner = scheduled(keras_meta.PersistentES(1, 0.1, LENGTH), start="initial")
    tuner.optimizer.learning_rate = 0.0
    seen = []
    counted = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: seen.append(logs["loss"])
    )
    options = {"callbacks": [counted], "steps": None}
    fit(tuner, DATA, VALIDATION, **options)
    assert len(seen) == WINDOWS
    fit(tuner, DATA, VALIDATION, steps=1)
    tuner.restart()
    fit(tuner, DATA, VALIDATION, **options)
    # On whole batches all runs are alike.
    assert seen[:WINDOWS] == seen[WINDOWS:]


@pytest.mark.slow
def test_particles_continue_from_a_file(tmp_path):
    strategy = keras_meta.PersistentES(2, sigma=0.1, length=LENGTH)
    tuner = scheduled(strategy, start="initial")
    fit(tuner, DATA, VALIDATION, BATCH)
    tuner.save(tmp_path / "tuner.keras")
    loaded = keras.models.load_model(tmp_path / "tuner.keras")
    loaded.run_eagerly = True
    logs = [fit(t, DATA, VALIDATION, BATCH, 2) for t in (tuner, loaded)]
    assert logs[0] == logs[1]
    for a, b in zip(tuner.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_graphs_compare_particles_as_eager_execution_does(jit_compile):
    # XLA draws other normal numbers.
    strategy = keras_meta.PersistentES(
        2, sigma=0.1, length=LENGTH, draws="rademacher"
    )
    eager, graph = (scheduled(strategy, start="initial") for _ in range(2))
    graph.compile(keras.optimizers.SGD(RATE), "mse", jit_compile=jit_compile)
    for tuner in (eager, graph):
        fit(tuner, DATA, VALIDATION, BATCH, 5)
    np.testing.assert_allclose(theta_of(graph), theta_of(eager), rtol=1e-9)


@pytest.mark.parametrize(
    "meta_gradient, start, words",
    [
        (keras_meta.NoiseReuseES(), "kept", "one direction alone"),
        (keras_meta.PersistentES(length=2), "kept", 'or start="initial"'),
        (keras_meta.PersistentES(length=3), "initial", "steps=3"),
    ],
)
def test_windows_that_do_not_fit_are_refused(meta_gradient, start, words):
    with pytest.raises(ValueError, match=words):
        scheduled(meta_gradient, start=start, learn="scalar")


def test_a_particle_that_diverges_undoes_the_step():
    tuner = scheduled(
        keras_meta.PersistentES(1, sigma=1e3, length=LENGTH), start="initial"
    )
    before = [v.numpy() for v in tuner.weights]
    with pytest.raises(FloatingPointError, match="undone"):
        fit(tuner, DATA, VALIDATION, BATCH)
    for a, b in zip(before, tuner.weights, strict=True):
        np.testing.assert_array_equal(a, b)
