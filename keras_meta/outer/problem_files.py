"""What a file holds of problems, besides their configs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from collections.abc import Sequence

from keras_meta.problems.problem import Problem


def save_problems(problems: Sequence[Problem], folder: str) -> None:
    """Writes what the configs of problems do not hold."""
    for problem, path in _with_folders(problems, folder):
        os.makedirs(path, exist_ok=True)
        problem.save_assets(path)


def load_problems(problems: Sequence[Problem], folder: str) -> None:
    """Reads what `save_problems` wrote."""
    for problem, path in _with_folders(problems, folder):
        problem.load_assets(path)


def _with_folders(
    problems: Sequence[Problem], folder: str
) -> Iterator[tuple[Problem, str]]:
    """Yields the problems, each with a folder of its own."""
    for i, problem in enumerate(problems):
        yield problem, os.path.join(folder, f"problem_{i}")
