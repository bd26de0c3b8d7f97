import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def run_binary():
    """Runs `python -m experiments.<name>` like a user.

    Returns its standard output, and requires an empty standard error, except
    for a run that says where it continues.
    """
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)

    def run(name: str, *arguments: str, continues: bool = False) -> str:
        finished = subprocess.run(
            [sys.executable, "-m", f"experiments.{name}", *arguments],
            cwd=_ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        # The error of `check_returncode` does not say why it failed.
        if finished.returncode:
            print(finished.stderr[-4000:])
        finished.check_returncode()
        said = finished.stderr.splitlines()
        if continues:
            assert said.pop(0).startswith("Continuing at iteration ")
        assert said == []
        return finished.stdout

    return run
