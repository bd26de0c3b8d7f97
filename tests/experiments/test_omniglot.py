import json
import subprocess

import data_sets
import pytest


@data_sets.needs("omniglot")
def test_binary(run_binary, tmp_path):
    arguments = (
        "--network=mlp",
        "--iterations=5",
        "--validate_every=2",
        "--meta_batch=2",
        "--queries=1",
        "--validation_tasks=2",
        "--test_tasks=4",
        "--curve_steps=1",
        "--evaluation_steps=1",
        f"--output={tmp_path}",
    )
    printed = run_binary("omniglot", *arguments)
    assert printed.startswith("Training MAML on Omniglot, 5 iterations, on ")
    assert "89.70 ± 1.10" in printed
    run = tmp_path / "maml_mlp_5way_1shot_5"
    record = json.loads((run / "results.json").read_text())
    assert record["iterations"] == 5
    history = (run / "history.csv").read_text().splitlines()
    column = history[0].split(",").index("iterations")
    assert [row.split(",")[column] for row in history[1:]] == ["2", "4", "5"]
    assert record["measurements"]["test_accuracy"]["tasks"] == 4
    assert len(record["measurements"]["curve_accuracy"]["mean"]) == 2
    for figure in ("validation_accuracy", "accuracy_by_step", "episode"):
        assert (run / f"{figure}.png").stat().st_size > 1000


def test_help_explains_with_examples(run_binary):
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run_binary("omniglot", "--help")
    assert "experiments.omniglot --time_limit=10" in caught.value.output
