import functools
import json

import numpy as np
import pytest
from kills import finish_after_kills

from experiments import results
from experiments import run_folder
from experiments import sinusoid_figures
from experiments import sinusoid_run
from experiments.algorithms import ImplicitOptions
from experiments.sinusoid_run import Settings
from keras_meta import episodes
from keras_meta.evaluation import Curve


def _settings(**changes):
    settings = {
        "algorithm": "maml",
        "shots": 5,
        "family": "meta_sgd",
        "iterations": 20,
        "meta_batch": 4,
        "steps": 1,
        "test_steps": 1,
        "inner_rate": 0.01,
        "meta_rate": 1e-3,
        "meta_decay": "none",
        "hidden": (8,),
        "seed": 3,
        "test_tasks": 10,
        "test_shots": (5,),
    }
    return Settings(**{**settings, **changes})


@pytest.mark.slow
def test_binary(run_binary, tmp_path):
    arguments = (
        "--iterations=20",
        "--test_tasks=20",
        "--hidden=8",
        "--algorithm=maml",
        f"--output={tmp_path}",
    )
    printed = run_binary("sinusoid", *arguments)
    assert printed.startswith("Training 1 network on sine waves for 20 ")
    assert f"go to {tmp_path}" in printed
    assert "(1.13 ± 0.18, " in printed
    path = tmp_path / "maml_5shot_20" / "results.json"
    record = json.loads(path.read_text())
    assert record["iterations"] == 20
    assert record["measurements"]["10_shot_mse"]["tasks"] == 20
    for figure in ("adaptation_5shot", "curves_5shot"):
        assert (tmp_path / f"{figure}.png").stat().st_size > 1000


@pytest.mark.slow
def test_training_data_are_those_of_the_library():
    expected = episodes.sinusoids(
        shots=5, queries=5, tasks=4, family="meta_sgd", seed=3, start=8
    )
    data = sinusoid_run._training_data(_settings(), start=8)
    pairs = zip(data.take(60), expected.take(60), strict=True)
    for (x, y), (expected_x, expected_y) in pairs:
        np.testing.assert_array_equal(y, expected_y)
        np.testing.assert_array_equal(x["support_x"], expected_x["support_x"])


def test_family_is_that_of_the_library():
    for name in ("maml", "meta_sgd", "reptile"):
        family = sinusoid_run.family_of(name)
        _, y = family.draw(seed=1, index=0, tasks=3, shots=2, queries=4)
        options = {"shots": 2, "queries": 4, "tasks": 3, "seed": 1}
        data = episodes.sinusoids(family=name, **options)
        np.testing.assert_array_equal(next(iter(data))[1], y)


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm",
    [
        "meta_sgd",
        pytest.param("fomaml", marks=pytest.mark.slow),
        pytest.param("anil", marks=pytest.mark.slow),
        "reptile",
        "pretrained",
    ],
)
def test_algorithms_train(tmp_path, algorithm):
    settings = _settings(algorithm=algorithm)
    record = sinusoid_run.run(settings, tmp_path)
    assert np.isfinite(record["measurements"]["5_shot_mse"]["mean"])
    trained = sinusoid_run.load(settings, tmp_path)
    untrained, _ = sinusoid_run._make(settings)
    changed = trained.model.get_weights()[0] - untrained.model.get_weights()[0]
    assert np.abs(changed).max() > 0


@pytest.mark.slow
def test_implicit_maml_records_how_near_to_minima_it_comes(tmp_path):
    implicit = ImplicitOptions(10.0, momentum=0.5, cg_steps=2, damping=0.1)
    settings = _settings(algorithm="implicit_maml", steps=3, implicit=implicit)
    record = sinusoid_run.run(settings, tmp_path)
    assert 0 < record["measurements"]["inner_gradient_norm"] < 1
    assert results.arrival(record).startswith("inner loops end at 0.")
    # A second run reads the record.
    assert sinusoid_run.run(settings, tmp_path) == record


def _measured(record):
    return record["iterations"], record["measurements"]


@pytest.mark.slow
def test_a_run_killed_at_a_write_ends_like_an_uninterrupted_one(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(sinusoid_run, "_ITERATIONS_PER_EPOCH", 4)
    monkeypatch.setattr(sinusoid_run, "_EPOCHS_PER_CHECKPOINT", 2)
    run = functools.partial(sinusoid_run.run, _settings())
    straight = _measured(run(tmp_path / "straight"))
    records = list(finish_after_kills(run, tmp_path, every=3))
    assert len(records) >= 4
    for record in records:
        assert _measured(record) == straight


@pytest.mark.slow
def test_other_settings_are_refused(tmp_path):
    sinusoid_run.run(_settings(), tmp_path)
    other = _settings(seed=4, meta_rate=0.1)
    changes = "meta_rate=0.001, now 0.1; seed=3, now 4"
    for name in ("results.json", "checkpoint.weights.h5"):
        with pytest.raises(
            run_folder.OtherSettings, match=f"{name} belongs.*: {changes}"
        ):
            sinusoid_run.run(other, tmp_path)
        (tmp_path / _settings().name / "results.json").unlink(missing_ok=True)


def test_results_without_weights_are_not_drawn(tmp_path):
    folder = tmp_path / _settings().name
    with pytest.raises(FileNotFoundError, match=f"is missing. Remove {folder}"):
        sinusoid_run.load(_settings(), tmp_path)


def test_a_diverging_curve_ends_with_a_note():
    mean = np.array([3.0, 1.0, 2.0, 1e7, np.inf])
    half_width = np.array([0.2, 0.1, 0.5, 9e6, np.nan])
    curve = Curve(mean, half_width, 100)
    end, note = sinusoid_figures._end, sinusoid_figures._divergence_note
    assert end(curve) == 3
    assert note(curve, 3) == ",\ndiverges after 2"
    sound = Curve(mean[:3], half_width[:3], 100)
    assert note(sound, end(sound)) == ""
