import dataclasses
import json

import keras
import numpy as np
import pytest

from experiments import learned_loss_run
from experiments.learned_loss_run import Settings

SETTINGS = Settings(
    wrong=(0.0, 1.0),
    iterations=2,
    meta_batch=3,
    shots=4,
    steps=1,
    rates=(0.01,),
    meta_rate=1e-3,
    units=(5,),
    base="mse",
    validation_tasks=100,
    test_tasks=100,
    seed=2**33,
)


def _first(wrong):
    tasks = learned_loss_run.tasks(wrong, SETTINGS, SETTINGS.seed, 3)
    return next(tasks.as_numpy_iterator())


@pytest.mark.slow
def test_wrong_labels_are_those_of_support_sets_alone():
    (clean, y), (wrong, same) = _first(0.0), _first(1.0)
    (again, _), (some, _) = _first(1.0), _first(0.5)
    assert np.all(clean["support_y"] != wrong["support_y"])
    np.testing.assert_array_equal(wrong["support_y"], again["support_y"])
    np.testing.assert_array_equal(wrong["support_x"], clean["support_x"])
    np.testing.assert_array_equal(y, same)
    kept = some["support_y"] == clean["support_y"]
    assert np.all(kept | (some["support_y"] == wrong["support_y"]))
    assert 0 < kept.sum() < kept.size


@pytest.mark.parametrize(
    ("name", "slope"),
    [
        ("mse", lambda r: 2 * r),
        ("huber", lambda r: np.clip(r, -1, 1)),
        ("mae", np.sign),
        ("log_cosh", np.tanh),
        ("learned", lambda r: 2 * r),
    ],
)
def test_slopes_are_derivatives_by_the_prediction(name, slope):
    residuals = np.array([-3.0, -0.5, 0.25, 2.0])
    loss = learned_loss_run.make_loss(name, SETTINGS)
    for label in (0.0, 1.5):
        found = learned_loss_run.slopes_of(loss, label, residuals)
        np.testing.assert_allclose(found, slope(residuals), rtol=1e-5)


def test_learned_losses_start_alike():
    settings = dataclasses.replace(SETTINGS, base="huber", seed=1)
    losses = [learned_loss_run.make_loss("learned", settings) for _ in "ab"]
    for loss in losses:
        loss.build([None, 1], [None, 1])
    for one, other in zip(*(x.weights for x in losses), strict=True):
        np.testing.assert_array_equal(one, other)
    assert losses[0].base is keras.losses.huber


@pytest.mark.slow
def test_the_comparison_runs(run_binary, tmp_path):
    printed = run_binary(
        "learned_loss",
        "--loss=mse",
        "--loss=learned",
        "--wrong=0.3",
        "--rate=0.01",
        "--iterations=2",
        "--validation_tasks=100",
        "--test_tasks=100",
        f"--output={tmp_path}",
    )
    assert "30% wrong  Learned" in printed
    record = json.loads((tmp_path / "results.json").read_text())
    assert set(record["measurements"]) == {
        "mse, 30% wrong",
        "learned, 30% wrong",
    }
    assert (tmp_path / "learned_loss.png").stat().st_size > 1000
