import json

import numpy as np
import pytest

from experiments import navigation_run
from experiments.navigation_run import Settings


@pytest.mark.slow
def test_walking_straight_is_a_plain_loop():
    settings = Settings(
        algorithm="untrained",
        objective="dice",
        iterations=1,
        meta_batch=2,
        rollouts=2,
        inner_rate=0.5,
        later_rate=0.25,
        meta_rate=0.01,
        hidden=(4,),
        initial_std=1.0,
        seed=0,
        test_goals=5,
        test_steps=1,
        test_rollouts=2,
    )
    goals = navigation_run.test_goals(settings)
    returns = []
    for goal in goals:
        steps = np.ceil(np.abs(goal).max() / 0.1)
        # A step goes .1 in the farther coordinate, and the last one the rest.
        shares = np.minimum(np.arange(1, steps + 1) * 0.1, np.abs(goal).max())
        left = 1 - shares / np.abs(goal).max()
        returns.append(-np.sum(left) * np.linalg.norm(goal))
    found = navigation_run.straight_line(settings)
    assert found.mean == pytest.approx(np.mean(returns), rel=1e-4)
    deviation = np.std(returns, ddof=1) / np.sqrt(5)
    assert found.half_width == pytest.approx(1.96 * deviation, rel=1e-3)


@pytest.mark.slow
def test_binary(run_binary, tmp_path):
    arguments = (
        "--algorithm=maml",
        "--algorithm=pretrained",
        "--algorithm=untrained",
        "--objective=loaded_dice",
        "--iterations=1",
        "--meta_batch=2",
        "--rollouts=2",
        "--hidden=4",
        "--test_goals=2",
        "--test_rollouts=2",
        "--test_steps=1",
        f"--output={tmp_path}",
    )
    printed = run_binary("navigation", *arguments)
    assert "MAML, Loaded DiCE" in printed
    assert "Straight to the goal: -" in printed
    for name in "maml_loaded_dice", "pretrained", "untrained":
        record = json.loads((tmp_path / name / "results.json").read_text())
        measured = record["measurements"]
        assert np.shape(measured["returns"]["mean"]) == (2,)
        assert np.isfinite(measured["returns"]["mean"]).all()
        assert len(measured["history"]) == (name != "untrained")
    for name in "returns", "paths":
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
    # What is finished is not repeated.
    table = printed[printed.index("Mean return") : printed.index("Straight")]
    again = run_binary("navigation", "--nofigures", *arguments)
    assert table in again
