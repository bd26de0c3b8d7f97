import dataclasses
import json
import subprocess
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from kills import finish_after_kills

import keras_meta
from experiments import checkpoint
from experiments import learned_optimizer_comparison as comparison
from experiments import learned_optimizer_figures as figures
from experiments import learned_optimizer_run as run_lib
from experiments import optimizees
from experiments import run_folder
from keras_meta import durable_files
from keras_meta.optimizers import LSTMOptimizer
from tests import data_sets


def settings(**changes):
    values = {
        "rule": "lstm",
        "problem": "quadratic",
        "scaling": 0.0,
        "steps": 4,
        "first_steps": 4,
        "truncation": 2,
        "instances": 4,
        "batches": 4,
        "objective": "loss",
        "second_order": False,
        "weights": "linear",
        "meta_rate": 0.01,
        "clip": 1.0,
        "preprocessing": 0.0,
        "output_scale": 0.1,
        "seed": 0,
        "start_from": None,
        "validate_every": 2,
        "validation_instances": 8,
        "validation_steps": 4,
    }
    return run_lib.Settings(**{**values, **changes})


@pytest.mark.slow
def test_binary(run_binary, tmp_path):
    printed = run_binary(
        "learned_optimizer",
        "--steps=10",
        "--truncation=5",
        "--instances=8",
        "--batches=4",
        "--validate_every=2",
        "--validation_instances=8",
        "--test_instances=8",
        "--test_steps=12",
        "--tuning_instances=4",
        f"--output={tmp_path}",
    )
    assert printed.startswith("Training an optimizer on quadratic and test")
    assert "mean loss of 8 problems" in printed
    folder = tmp_path / "quadratic"
    report = json.loads((folder / "results.json").read_text())
    assert set(report["quadratic"]["rates"]) == {
        "sgd",
        "momentum",
        "rmsprop",
        "adam",
    }
    with np.load(folder / "quadratic.npz") as curves:
        assert curves["lstm"].shape == (8, 13)
        mean = curves["lstm"].mean(axis=0)[12]
    assert report["quadratic"]["mean"]["lstm"]["12"] == pytest.approx(mean)
    assert report["quadratic"]["settings"]["training"]["truncation"] == 5
    assert (folder / "quadratic.png").stat().st_size > 1000
    LSTMOptimizer.from_preset(str(folder / "preset"))


def test_the_meta_gradient_is_truncated_by_default():
    expected = keras_meta.Truncated(2, keras_meta.FirstOrder())
    assert run_lib._meta_gradient(settings()) == expected
    assert run_lib._start(settings()) == "drawn"


def test_evolution_strategies_are_made_as_set():
    changes = {"particles": 3, "sigma": 0.2, "seed": 5, "kept_groups": 2}
    for name, strategy in {
        "persistent_es": keras_meta.PersistentES,
        "noise_reuse_es": keras_meta.NoiseReuseES,
        "evolution_strategies": keras_meta.EvolutionStrategies,
    }.items():
        chosen = settings(meta_gradient=name, **changes)
        run_lib.check(chosen)
        expected = strategy(3, 0.2, 2, seed=5)
        assert run_lib._meta_gradient(chosen) == expected
        assert run_lib._start(chosen) == keras_meta.Kept(4, groups=2)


def test_kept_runs_take_a_window_in_a_batch():
    drawn = settings(batches=6)
    lengths = run_lib._lengths(drawn)
    assert run_lib._meta_steps(drawn, lengths) == 12
    kept = dataclasses.replace(drawn, kept_groups=2)
    assert run_lib._meta_steps(kept, lengths) == 6


_ES = {"meta_gradient": "persistent_es", "particles": 2, "sigma": 0.1}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"particles": 2}, "has no particles. Received: --particles=2"),
        ({"sigma": 0.1}, "has no particles. Received: --sigma=0.1"),
        ({**_ES, "second_order": True}, "differentiates nothing"),
        ({**_ES, "sigma": 0.0}, "--sigma=0.0"),
        ({**_ES, "sigma": float("nan")}, "--sigma=nan"),
        ({"kept_groups": 2, "problem": "mixture"}, "one family"),
        ({"kept_groups": 3}, "--kept_groups=3 --instances=4"),
        ({"kept_groups": 4}, "2 windows of --truncation=2"),
        ({"kept_groups": 1, "truncation": 4}, "1 windows of --truncation=4"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, match):
    run_lib.check(settings())
    with pytest.raises(ValueError, match=match):
        run_lib.check(settings(**changes))


@pytest.mark.slow
def test_flags_that_do_not_go_together_are_refused(run_binary, tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as raised:
        run_binary("learned_optimizer", "--sigma=0.1", f"--output={tmp_path}")
    assert "--meta_gradient=truncated has no particles" in raised.value.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_preset_is_tested_with_its_own_family(run_binary, tmp_path):
    with pytest.raises(subprocess.CalledProcessError) as raised:
        run_binary(
            "learned_optimizer",
            "--preset=lstm_quadratic",
            f"--output={tmp_path}",
        )
    assert "--preset also needs --problem" in raised.value.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    "rule",
    [
        pytest.param("lstm", marks=pytest.mark.slow),
        pytest.param("hierarchical", marks=pytest.mark.slow),
        "hyperparameters",
    ],
)
def test_a_stopped_run_ends_like_an_uninterrupted_one(tmp_path, rule):
    # The second epoch has twice the steps of the first.
    changes = {"rule": rule, "first_steps": 2}
    run_lib.train(settings(**changes), tmp_path / "whole")
    for time_limit in (1e-9, 0.0):
        run_lib.train(settings(**changes), tmp_path / "parts", time_limit)
    whole, parts = [
        json.loads((tmp_path / name / "history.json").read_text())
        for name in ("whole", "parts")
    ]
    assert len(whole) == len(parts) == 2
    for a, b in zip(whole, parts, strict=True):
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=1e-5)


@pytest.mark.slow
def test_stopped_persistent_es_goes_on_with_the_runs_that_it_keeps(
    tmp_path, monkeypatch
):
    # XLA would compile all of it three times, which takes most of a minute.
    monkeypatch.setattr(
        keras_meta.OptimizerLearner,
        "_resolve_auto_jit_compile",
        lambda _: False,
    )
    chosen = settings(
        rule="hyperparameters", steps=8, first_steps=8, kept_groups=2, **_ES
    )
    whole = run_lib.train(chosen, tmp_path / "whole").get_weights()
    for time_limit in (1e-9, 0.0):
        rule = run_lib.train(chosen, tmp_path / "parts", time_limit)
    start = keras_meta.LearnedHyperparameters()
    start.attach(optimizees.make("quadratic").variables, steps=8)
    assert any(
        (a != b).any() for a, b in zip(whole, start.get_weights(), strict=True)
    )
    for a, b in zip(whole, rule.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize(
    ("first_steps", "expected"),
    [(16, [16] * 5), (2, [2, 8, 16, 16, 16]), (4, [4, 8, 16, 16, 16])],
)
def test_steps_reach_their_number_before_half_of_training(
    first_steps, expected
):
    chosen = settings(steps=16, first_steps=first_steps, batches=10)
    assert run_lib._lengths(chosen) == expected


def test_a_run_of_one_epoch_has_all_steps():
    chosen = settings(steps=16, first_steps=2, batches=2)
    assert run_lib._lengths(chosen) == [16]


@pytest.mark.parametrize("first_steps", [0, 1, 17])
def test_first_steps_out_of_range_are_refused(first_steps):
    chosen = settings(steps=16, first_steps=first_steps)
    with pytest.raises(ValueError, match="--first_steps must be from"):
        run_lib._lengths(chosen)


@pytest.mark.slow
def test_a_run_does_not_continue_with_other_settings(tmp_path):
    chosen = settings(rule="hyperparameters", batches=2)
    rule = run_lib.train(chosen, tmp_path)
    other = dataclasses.replace(chosen, meta_rate=0.5)
    with pytest.raises(
        run_folder.OtherSettings, match="meta_rate=0.01, now 0.5.*--output"
    ):
        run_lib.train(other, tmp_path)
    # Files for other programs are rewritten from the checkpoint.
    for name in ("history.json", "best.npz", "settings.json"):
        (tmp_path / name).write_bytes(b"")
    again = run_lib.train(chosen, tmp_path)
    np.testing.assert_array_equal(again.get_weights(), rule.get_weights())
    assert len(json.loads((tmp_path / "history.json").read_text())) == 1
    recorded = durable_files.read_json(tmp_path / "settings.json", "")
    assert recorded["meta_rate"] == 0.01
    with np.load(tmp_path / "best.npz") as best:
        np.testing.assert_array_equal(list(best.values()), rule.get_weights())


@pytest.mark.slow
def test_training_killed_at_a_write_ends_like_an_uninterrupted_one(tmp_path):
    chosen = settings(rule="hyperparameters", first_steps=2)

    def trained(folder):
        return np.array(run_lib.train(chosen, folder).get_weights())

    straight = trained(tmp_path / "straight")
    resumed = list(finish_after_kills(trained, tmp_path, every=5))
    assert len(resumed) >= 4
    for weights in resumed:
        np.testing.assert_array_equal(weights, straight)


def test_the_best_epoch_has_a_finite_loss():
    progress = checkpoint.Progress()
    keep_best = run_lib._KeepBest(progress)
    best_losses = []
    for loss in (np.nan, 2.0, np.inf, 1.0, np.nan, 3.0):
        weights = [np.array(loss)]
        rule = SimpleNamespace(get_weights=lambda weights=weights: weights)
        keep_best.set_model(SimpleNamespace(rule=rule))
        progress.history.append({"val_loss": loss})
        keep_best.on_epoch_end(0)
        best_losses.append(float(progress.best[0]))
    np.testing.assert_equal(best_losses, [np.nan, 2.0, 2.0, 1.0, 1.0, 1.0])


@pytest.mark.slow
def test_gradients_are_differentiated_and_clipped_as_set(tmp_path):
    def learned(name, **changes):
        rule = run_lib.train(settings(**changes), tmp_path / name)
        return np.concatenate([w.ravel() for w in rule.get_weights()])

    first = learned("first", clip=1e-3)
    # Below all norms, the value of the clip cancels out.
    smaller = learned("smaller", clip=1e-6)
    np.testing.assert_allclose(smaller, first, atol=1e-5)
    assert abs(learned("loose", clip=1e9) - first).max() > 1e-4
    second = learned("second", clip=1e-3, second_order=True)
    assert abs(second - first).max() > 1e-4


@pytest.mark.slow
def test_baselines_are_those_of_keras():
    problem = optimizees.make("quadratic")
    pairs = {
        "sgd": keras.optimizers.SGD(0.01),
        "momentum": keras.optimizers.SGD(0.01, momentum=0.9),
        "rmsprop": keras.optimizers.RMSprop(0.01),
        "adam": keras.optimizers.Adam(0.01, epsilon=1e-9),
    }
    curves = comparison.compare(
        problem, {}, dict.fromkeys(pairs, 0.01), 5, 2, together=2, seed=0
    )
    params, data = problem.draw(comparison._TEST_SEED, 0, 2)
    for name, optimizer in pairs.items():
        theta = keras.Variable(params[0])
        optimizer.build([theta])
        for step in range(5):
            residual = (data["x"] @ theta.value[..., None])[..., 0] - data["y"]
            loss = np.sum(residual**2, axis=-1)
            np.testing.assert_allclose(curves[name][:, step], loss, rtol=1e-3)
            gradient = 2 * np.einsum("irc,ir->ic", data["x"], residual)
            optimizer.apply([gradient], [theta])


@pytest.mark.slow
def test_a_rate_is_tuned_for_the_end_of_the_run():
    problem = keras_meta.problems.Quadratic(2)
    scores = comparison.tune(problem, "sgd", 20, 16, together=8, seed=0)
    assert len(scores) == 11
    best = min(scores, key=scores.get)
    rates = sorted(scores)
    assert rates[0] < best < rates[-1]
    assert scores[rates[-1]] == np.inf
    # The same problems and rates give the same scores.
    again = comparison.tune(problem, "sgd", 20, 16, together=16, seed=0)
    assert again[best] == pytest.approx(scores[best], rel=1e-3)


@pytest.mark.parametrize(
    ("steps", "averaged"), [(12, 1), (499, 1), (500, 2), (2001, 8)]
)
def test_a_long_curve_averages_neighbouring_steps(steps, averaged):
    losses = np.stack([np.arange(steps), np.ones(steps)])
    at, means = figures.thinned(losses)
    assert len(at) == means.shape[1] == steps // averaged
    np.testing.assert_allclose(means[0], at)
    np.testing.assert_allclose(means[1], 1.0)
    np.testing.assert_allclose(np.diff(at), averaged)


def test_summary():
    curves = {
        "lstm": np.array([[4.0, 1.0, 1.0], [2.0, 1.0, 3.0]]),
        "adam": np.array([[4.0, 3.0, 5.0], [2.0, 3.0, 3.0]]),
        "sgd": np.array([[4.0, 2.0, 9.0], [2.0, 2.0, 9.0]]),
    }
    report = comparison.summary(curves, "lstm", [1, 2])
    assert report["mean"]["adam"] == {1: 3.0, 2: 4.0}
    assert report["best_other_over_rule"] == {1: 2.0, 2: 2.0}
    assert report["half_width"]["lstm"][2] == pytest.approx(1.96)
    assert not report["below_all_others_from_10_to_100"]


def test_a_baseline_that_diverges_does_not_hide_the_others():
    curves = {
        "lstm": np.full([2, 3], 2.0),
        "adam": np.full([2, 3], 3.0),
        "sgd": np.array([[4.0, 9.0, np.nan], [2.0, 2.0, np.inf]]),
    }
    report = comparison.summary(curves, "lstm", [2])
    assert report["best_other_over_rule"] == {2: 1.5}


@pytest.mark.slow
@data_sets.needs("mnist", "cifar10", "eurosat")
def test_mixture():
    for problem in optimizees.mixture():
        losses = problem.losses(*problem.draw(0, 0, 2), 0)
        assert np.isfinite(losses).all()


_QUICK = ("quadratic", "mnist_40_units", "fashion_mnist", "cifar5")


@pytest.mark.slow_variants("cifar5", "fashion_mnist", "mnist_40_units")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(x, marks=[] if x in _QUICK else pytest.mark.slow)
        for x in optimizees.NAMES
    ],
)
@data_sets.needs("mnist", "fashion_mnist", "cifar10")
def test_families(name):
    problem = optimizees.make(name)
    params, data = problem.draw(0, 0, 2)
    losses = problem.losses(params, data, 0)
    assert np.isfinite(losses).all()
    units = {"mnist_40_units": 40, "mnist": 20}.get(name)
    if units:
        assert params[0].shape == [2, 784, units]
    classes = {"cifar10": 10, "cifar5": 5, "cifar2": 2}.get(name)
    if classes:
        assert params[-1].shape == [2, classes]
