"""The experiments on what training depends on."""

import json

import numpy as np
import pytest

from experiments import cleaning_run
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
    run_binary("bilevel", *flags)
    again = np.load(tmp_path / "distilled.npz")
    np.testing.assert_array_equal(distilled["x"], again["x"])
