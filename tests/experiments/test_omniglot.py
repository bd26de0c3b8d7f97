import dataclasses
import json
import subprocess

import pytest

from experiments import checkpoint
from experiments import omniglot_run
from experiments import run_folder
from tests import data_sets


@pytest.mark.slow
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


@pytest.mark.slow
def test_help_explains_with_examples(run_binary):
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run_binary("omniglot", "--help")
    assert "experiments.omniglot --time_limit=10" in caught.value.output


def test_the_checkpoint_of_another_seed_is_not_used(tmp_path):
    settings = omniglot_run.Settings(
        algorithm="maml",
        network="mlp",
        ways=5,
        shots=1,
        train_shots=1,
        queries=1,
        steps=1,
        evaluation_steps=1,
        batch_size=None,
        inner_rate=0.4,
        meta_rate=0.001,
        meta_decay="none",
        meta_batch=2,
        iterations=5,
        protocol="random1200",
        rotations="none",
        batch_statistics="batch",
        seed=0,
        validate_every=5,
        validation_tasks=2,
        test_tasks=2,
        curve_steps=1,
    )
    learner = omniglot_run.make(settings)
    learner.optimizer.build(learner.trainable_variables)
    save = checkpoint.Checkpoint(
        tmp_path, settings, checkpoint.Progress(iterations=5)
    )
    save.set_model(learner)
    save.on_train_batch_end(4)
    save.on_train_end()
    with pytest.raises(run_folder.OtherSettings, match="seed=0, now 1"):
        omniglot_run.run(
            dataclasses.replace(settings, seed=1),
            tmp_path,
            data_dir=None,
            time_limit=0.0,
            steps_per_execution=1,
        )
