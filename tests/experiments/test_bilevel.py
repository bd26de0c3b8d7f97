"""The experiments on what training depends on."""

import json

import numpy as np
import pytest

from experiments import cleaning_run
from experiments import schedule_run
from experiments import tuning_run
from experiments.tuning_run import Choice
from experiments.tuning_run import Point
from tests import data_sets


def test_labels_move_to_other_classes():
    labels = np.arange(1000) % 10
    moved, is_wrong = cleaning_run.corrupted(
        labels, 0.3, np.random.default_rng(0)
    )
    assert is_wrong.sum() == 300
    np.testing.assert_array_equal(moved != labels, is_wrong)
    assert {*moved} == {*range(10)}


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    flagged = np.array([True, True, True, False, False])
    is_wrong = np.array([True, True, False, True, False])
    assert cleaning_run.f1(flagged, is_wrong) == pytest.approx(2 / 3)
    assert cleaning_run.f1(is_wrong, is_wrong) == 1
    assert cleaning_run.f1(np.zeros(5, bool), np.zeros(5, bool)) == 0


@pytest.mark.slow
@pytest.mark.skipif(
    bool(data_sets.missing("mnist")), reason="TFDS_DATA_DIR lacks mnist"
)
def test_wrong_labels_are_found(run_binary, tmp_path):
    printed = run_binary(
        "bilevel",
        "--task=hyper_cleaning",
        "--training=500",
        "--validation=500",
        "--meta_steps=40",
        f"--output={tmp_path}",
    )
    assert "F1" in printed
    record = json.loads((tmp_path / "results.json").read_text("utf-8"))
    assert record["measurements"]["f1"] > 0.75
    assert (tmp_path / "hyper_cleaning.png").stat().st_size > 1000


def test_the_slope_of_the_toy_problem_is_a_central_difference():
    places = np.random.default_rng(0).normal(size=[50, 2])
    found = schedule_run.valley_slope(places)
    for axis, way in enumerate(1e-6 * np.eye(2)):
        ahead, behind = (
            schedule_run.valley(places + sign * way, np) for sign in (1, -1)
        )
        np.testing.assert_allclose(
            found[:, axis], (ahead - behind) / 2e-6, rtol=1e-6, atol=1e-8
        )


def test_a_time_shows_the_best_model_before_it():
    points = [Point(1.0, 2.0, 0.9, 0.8), Point(3.0, 5.0, 0.7, 0.6)]
    found = tuning_run.at_times(points, np.array([0.5, 1.0, 2.9, 3.0, 9.0]))
    expected = [np.nan, 0.9, 0.9, 0.7, 0.7]
    np.testing.assert_array_equal(found[:, 2], expected)


def test_shared_rates_are_means_of_logarithms():
    choice = Choice([0.1], [0.1, 10.0], [0.25, 0.75])
    shared = tuning_run.shared(choice)
    assert shared.l2 == [0.1]
    np.testing.assert_allclose(shared.rates, [1, 1])
    np.testing.assert_allclose(shared.momenta, [0.5, 0.5])


@pytest.mark.slow
@pytest.mark.skipif(
    bool(data_sets.missing("fashion_mnist")),
    reason="TFDS_DATA_DIR lacks fashion_mnist",
)
def test_a_network_is_tuned_by_gradient(run_binary, tmp_path):
    arguments = [
        "bilevel",
        "--task=tuning",
        "--tuning_method=gradient",
        "--tuning_seconds=30",
        "--tuning_seeds=1",
        "--tuning_training=100",
        "--tuning_validation=100",
        "--tuning_units=8",
        "--tuning_batch_size=50",
        "--tuning_steps=4",
        "--tuning_final_trainings=1",
        f"--output={tmp_path}",
    ]
    assert "Median test loss" in run_binary(*arguments)
    record = json.loads((tmp_path / "results.json").read_text("utf-8"))
    (found,) = record["measurements"]["gradient"]
    losses = [loss for *_, loss, _ in found["points"]]
    assert losses == sorted(losses, reverse=True)
    assert (tmp_path / "tuning.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.skipif(
    bool(data_sets.missing("mnist")), reason="TFDS_DATA_DIR lacks mnist"
)
@pytest.mark.parametrize("start", ["initial", "drawn"])
def test_images_are_distilled(start, run_binary, tmp_path):
    flags = [
        "--task=distillation",
        "--distill_network=mlp",
        f"--distill_start={start}",
        "--distill_steps=1",
        "--distill_meta_steps=60",
        "--distill_rate=0.1",
        "--distill_meta_rate=0.05",
        "--distill_batch_size=256",
        "--distill_rate_steps=20",
        "--distill_draws=2",
        "--distill_initializations=4",
        f"--output={tmp_path}",
    ]
    assert "random real images" in run_binary("bilevel", *flags)
    record = json.loads((tmp_path / "results.json").read_text("utf-8"))
    measured = record["measurements"]
    assert len(measured["history"]) == 20
    accuracies = {
        name: np.mean(values)
        for name, values in measured["test_accuracy"].items()
    }
    assert accuracies["distilled images"] > 40
    assert accuracies["the same, in plain Keras"] > 40
    distilled = np.load(tmp_path / "distilled.npz")
    assert distilled["x"].shape == (1, 10, 28, 28, 1)
    assert (tmp_path / "distillation.png").stat().st_size > 1000
    # The same command goes on from the end of training.
    (tmp_path / "results.json").unlink()
    run_binary("bilevel", *flags, continues=True)
    again = np.load(tmp_path / "distilled.npz")
    np.testing.assert_array_equal(distilled["x"], again["x"])


@pytest.mark.slow
@pytest.mark.skipif(
    bool(data_sets.missing("mnist")), reason="TFDS_DATA_DIR lacks mnist"
)
def test_schedules_are_learned(run_binary, tmp_path):
    printed = run_binary(
        "bilevel",
        "--task=schedule",
        "--toy_meta_steps=30",
        "--toy_particles=4",
        "--schedule_method=pes",
        "--schedule_seeds=1",
        "--schedule_seconds=1",
        "--schedule_steps=20",
        "--schedule_particles=1",
        "--schedule_test_runs=1",
        f"--output={tmp_path}",
    )
    assert "Persistent ES" in printed
    record = json.loads((tmp_path / "results.json").read_text("utf-8"))
    path = record["measurements"]["toy"]["truncated"]["path"]
    assert len(path) == 31
    assert path[0] == pytest.approx([-4, -4])
    assert (tmp_path / "schedule.png").stat().st_size > 1000
