import json

import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from experiments import estimators_figures
from experiments import influence_balancing
from experiments.estimators_run import Estimator
from experiments.influence_balancing import InfluenceBalancing

THETA = tf.constant(0.5, tf.float64)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1, 1.0),
        (10, 10.0),
        (20, 16.48),
        (30, 9.87),
        (40, 0.57),
        (41, -0.22),
        (50, -4.75),
        (200, -6.0),
    ],
)
def test_the_influence_of_the_parameter(steps, expected):
    runs = InfluenceBalancing()
    with tf.GradientTape() as tape:
        tape.watch(THETA)
        taken = runs.take(None, [THETA], runs.start([THETA]), 0, steps)
        first = taken.carry.params[0][0, 0]
    actual = tape.gradient(first, THETA).numpy()
    assert actual == pytest.approx(expected, abs=0.005)
    assert influence_balancing.influence(steps) == pytest.approx(actual)


def test_the_exact_gradient():
    for theta in (0.5, -1.0):
        actual = influence_balancing.gradient(theta)
        assert actual == pytest.approx(36 * theta + 6)
    assert influence_balancing.gradient(0.5, steps=1) == pytest.approx(-4.0)
    assert influence_balancing.optimum() == pytest.approx(-1 / 6)


@pytest.mark.parametrize("window", [1, 10, 41])
def test_truncated_gradients_where_the_state_has_settled(window):
    runs = InfluenceBalancing()
    settled = runs.take(None, [THETA], runs.start([THETA]), 0, 200).carry
    estimator = Estimator("truncated", window)
    estimate = estimator.meta_gradient(1, 0.1).take_window(
        runs, [THETA], settled, 200, window, seed=tf.constant([0, 0])
    )
    expected = estimator.expected(0.5)
    assert estimate.gradients[0].numpy() == pytest.approx(expected)
    assert estimate.value.numpy() == pytest.approx(8.0)


def test_runs_of_particles_have_parameters_of_their_own():
    strategy = keras_meta.NoiseReuseES(3, 0.1, 100, draws="rademacher")
    runs, seed = InfluenceBalancing(tasks=2), tf.constant([0, 0])
    memory = strategy.begin_runs(runs, [THETA], seed)
    for number in range(2):
        estimate = strategy.take_window(
            runs, [THETA], memory, 100 * number, 100, seed
        )
        memory = estimate.memory
    # With signs for noise every difference is exact here.
    expected = Estimator("nres", 100).expected(0.5)
    assert estimate.gradients[0].numpy() == pytest.approx(expected)
    assert estimate.losses.shape == [101, 12]


def test_windows_of_a_method_differ_in_style():
    estimators = [
        Estimator("truncated", 1),
        Estimator("truncated", 10),
        Estimator("es", 1),
        Estimator("pes", 1),
    ]
    styles = estimators_figures.line_styles(estimators)
    assert styles == ["-", "--", "--", "-"]


@pytest.mark.slow
def test_only_estimators_that_see_far_back_reach_the_optimum(
    run_binary, tmp_path
):
    printed = run_binary(
        "estimators",
        "--window=1",
        "--seeds=2",
        "--held_seeds=2",
        f"--output={tmp_path}",
    )
    rows = {line[:26].strip(): line for line in printed.splitlines()}
    for name, verdict in {
        "Exact gradient": "reached",
        "Truncated backpropagation": "moved away",
        "Truncated ES": "moved away",
        "Persistent ES": "reached",
        "Noise-reuse ES": "reached",
    }.items():
        assert rows[name].endswith(f"  {verdict}")
    record = json.loads((tmp_path / "results.json").read_text())
    thetas = record["measurements"]["Persistent ES, window 1"]["theta"]
    np.testing.assert_allclose(thetas, [-1 / 6] * 2, atol=0.02)
    assert (tmp_path / "estimators.png").stat().st_size > 1000
