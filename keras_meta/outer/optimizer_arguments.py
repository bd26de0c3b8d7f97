"""Checks of what an `OptimizerLearner` is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import describe
from keras_meta.problems.problem import Problem


def check_no_loss(arguments: Mapping[str, Any]) -> None:
    """Checks arguments of `compile`; raises on a loss or a metric."""
    for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
        if arguments.get(name) is not None:
            raise ValueError(
                "An OptimizerLearner minimizes the loss of its problems. "
                f"Received: {name}={describe(arguments[name])} in `compile`. "
                "Leave it out; the loss is an argument of ModelProblem."
            )


def as_problems(problem: Any) -> list[Problem]:
    """Returns one or several problems as a list; raises on anything else."""
    several = isinstance(problem, (list, tuple))
    problems = [*problem] if several else [problem]
    if not problems or not all(isinstance(p, Problem) for p in problems):
        raise TypeError(
            "`problem` must be a keras_meta.problems.Problem or several. "
            f"Received: problem={describe(problem)}"
        )
    return problems


def check_batch(data: Any) -> dict[str, tf.Tensor]:
    """Returns seeds and indices of a batch; refuses anything else."""
    x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
    if not isinstance(x, dict) or set(x) != {"seed", "index"}:
        raise ValueError(
            "An OptimizerLearner is trained on batches of problem instances. "
            f"Received: {keras.tree.map_structure(type, x)}. Make them by "
            "keras_meta.problems.batches(...)."
        )
    return x
