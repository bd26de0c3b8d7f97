import json
import subprocess

import numpy as np
import pytest

from experiments import long_runs_figures
from experiments.estimators_run import Estimator
from experiments.long_runs_run import Measured
from experiments.long_runs_run import Settings
from tests import data_sets


def test_a_rule_that_diverges_does_not_hide_the_others(tmp_path):
    settings = Settings(
        problem="mnist_noisy",
        steps=1000,
        learning_rate=0.01,
        seconds=4.0,
        points=2,
        meta_rates=(0.1,),
        seeds=2,
        runs=4,
        groups=4,
        particles=8,
        sigma=0.1,
        test_runs=16,
    )

    def measured(losses):
        steps = np.array([[0, 5, 9]] * 2)
        return Measured({0.1: 1.0}, 0.1, np.array(losses), steps, 2 * 10**7)

    path = tmp_path / "losses"
    long_runs_figures.draw_losses(
        {
            Estimator("pes", 10): measured([[1.0, 0.9, 0.8], [1.0, 0.8, 0.7]]),
            Estimator("truncated", 10): measured(
                [[1.0, 1.2, np.inf], [1.0, 1.1, 1.3]]
            ),
        },
        settings,
        path,
    )
    assert path.with_suffix(".png").stat().st_size > 1000


@pytest.mark.slow
@data_sets.needs("mnist")
def test_binary(run_binary, tmp_path):
    printed = run_binary(
        "long_runs",
        "--method=nres",
        "--method=truncated",
        "--window=10",
        "--steps=20",
        "--groups=2",
        "--particles=2",
        "--seconds=0.2",
        "--points=2",
        "--meta_rate=0.03",
        "--seeds=1",
        "--test_runs=2",
        f"--output={tmp_path}",
    )
    assert printed.startswith("Meta-training on mnist_noisy by 2 meta-grad")
    record = json.loads((tmp_path / "results.json").read_text())
    measured = record["measurements"]
    names = [
        "Noise-reuse ES, window 10",
        "Truncated backpropagation, window 10",
    ]
    assert list(measured) == names
    untrained = {result["losses"][0][0] for result in measured.values()}
    assert len(untrained) == 1
    for result in measured.values():
        assert np.shape(result["losses"]) == (1, 3)
        assert np.isfinite(result["losses"]).all()
        assert result["meta_steps"][0][0] == 0
        assert (np.diff(result["meta_steps"][0]) > 0).all()
        assert result["meta_rate"] == 0.03
    assert (tmp_path / "long_runs.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "match"),
    [
        ("--es_window=30", "--steps=1000 and a window of 30"),
        ("--groups=3", "--groups=3 --runs=4"),
    ],
)
def test_flags_that_do_not_fit_are_refused(run_binary, tmp_path, flag, match):
    with pytest.raises(subprocess.CalledProcessError) as raised:
        run_binary("long_runs", flag, f"--output={tmp_path}")
    assert match in raised.value.stderr
    assert not any(tmp_path.iterdir())
