import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def run_binary():
    """Runs `python -m experiments.<name>` as a user does.

    Returns what it prints, and requires that it prints nothing but that.
    """
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)

    def run(name: str, *arguments: str) -> str:
        finished = subprocess.run(
            [sys.executable, "-m", f"experiments.{name}", *arguments],
            cwd=_ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )
        # What `check_returncode` raises does not tell why.
        if finished.returncode:
            print(finished.stderr[-4000:])
        finished.check_returncode()
        assert finished.stderr == ""
        return finished.stdout

    return run
