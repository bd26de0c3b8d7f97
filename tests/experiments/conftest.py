import os
import pathlib
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def run_binary():
    """Runs `python -m experiments.<name>` and returns what it prints."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(_ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }

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
        return finished.stdout

    return run
