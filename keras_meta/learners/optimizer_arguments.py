"""Checks of what an `OptimizerLearner` is given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_meta.problems.problem import Problem


def check_no_loss(arguments: Mapping[str, Any]) -> None:
    """Checks arguments of `compile`; raises on a loss or a metric."""
    for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
        if arguments.get(name) is not None:
            raise ValueError(
                "An OptimizerLearner minimizes the loss of its problems. "
                f"Received: {name}={arguments[name]!r} in `compile`. Leave it "
                "out; the loss is an argument of ModelProblem."
            )


def as_problems(problem) -> list[Problem]:
    """Returns one or several problems as a list; raises on anything else."""
    several = isinstance(problem, (list, tuple))
    problems = [*problem] if several else [problem]
    if not problems or not all(isinstance(p, Problem) for p in problems):
        raise TypeError(
            "`problem` must be a keras_meta.problems.Problem or several. "
            f"Received: problem={problem!r}"
        )
    return problems


def as_step_weights(weights, steps: int) -> np.ndarray:
    """Returns a weight for each step; raises on bad ones."""
    if weights is None:
        return np.ones(steps)
    weights = np.asarray(weights, float)
    is_fine = np.isfinite(weights) & (weights >= 0)
    if weights.shape != (steps,) or not is_fine.all():
        raise ValueError(
            f"`step_weights` must be None or {steps} numbers of at least 0, "
            f"one for each of steps={steps}. Received: shape {weights.shape}, "
            f"values {weights}"
        )
    return weights


def check_batch(data) -> dict[str, tf.Tensor]:
    """Returns seeds and indices of a batch; raises if it is none."""
    x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
    if not isinstance(x, dict) or set(x) != {"seed", "index"}:
        raise ValueError(
            "An OptimizerLearner is trained on batches of problem instances. "
            f"Received: {keras.tree.map_structure(type, x)}. Make them by "
            "keras_meta.problems.batches(...)."
        )
    return x
