"""Checks of what an `OptimizerLearner` is given."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import describe
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.outer.kept import Kept
from keras_meta.problems.problem import Problem
from keras_meta.update_rules.update_rule import UpdateRule

_WINDOWED = (
    "Use keras_meta.Truncated(20), or evolution strategies with "
    "length=20, for instance."
)


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


def attach_learned_rule(
    rule: UpdateRule, problems: Sequence[Problem], steps: int
) -> None:
    """Attaches a rule to problems; refuses one that cannot learn from them."""
    if len(problems) > 1 and not rule.fits_any_model:
        raise ValueError(
            "A rule with weights for each tensor learns from one problem. "
            f"Received: rule={type(rule).__name__} and {len(problems)} "
            "problems. Pass keras_meta.CoordinatewiseLSTM(), for instance."
        )
    rule.ensure_attached(problems[0].variables, steps)
    if not rule.trainable_variables:
        raise ValueError(
            "`rule` must have weights to learn. Received: "
            f"rule={type(rule).__name__}. Pass "
            "keras_meta.CoordinatewiseLSTM(), for instance."
        )


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


def check_learns_rules(meta_gradient: MetaGradient) -> None:
    """Refuses a meta-gradient that does not reach the rule.

    What it computes of a window must depend on how the steps are taken: by
    their derivative, or otherwise if it brings a `take_window` of its own.
    """
    own = type(meta_gradient).take_window is not MetaGradient.take_window
    if not meta_gradient.differentiates_steps and not own:
        raise ValueError(
            "An OptimizerLearner learns how steps are taken, so "
            "`meta_gradient` must differentiate the steps or compare perturbed "
            f"rules. Received: meta_gradient={meta_gradient}, which looks at "
            "where a run ends. Use keras_meta.Truncated(20), Unrolled() or "
            "FirstOrder(), or evolution strategies such as "
            "keras_meta.PersistentES(length=20)."
        )


def check_kept(
    start: Kept | str,
    problems: Sequence[Problem],
    meta_gradient: MetaGradient,
    steps: int,
) -> None:
    """Checks where runs start, and that they can be kept if they are."""
    if not isinstance(start, Kept):
        if isinstance(start, str) and start == "drawn":
            return
        raise ValueError(
            '`start` must be "drawn" or keras_meta.Kept(instances), with the '
            "number of instances of a batch. Received: "
            f"start={describe(start)}"
        )
    if len(problems) > 1:
        raise ValueError(
            "Kept runs go on with the problem that they began with, so there "
            f"must be one. Received: {len(problems)} problems and "
            f'start={start}. Use start="drawn", or one learner for each '
            "problem with the same rule."
        )
    length = meta_gradient.length
    if length is None or length >= steps:
        raise ValueError(
            "Runs are kept from window to window, so `meta_gradient` must "
            "take windows that are shorter than `steps`. Received: "
            f"meta_gradient={meta_gradient}, steps={steps}, start={start}. "
            f'{_WINDOWED} Or use start="drawn".'
        )
    if start.groups > steps // length:
        raise ValueError(
            "`groups` must be at most the number of windows of a run, or "
            f"groups would run in lockstep. Received: start={start}, and "
            f"{steps // length} windows, of {length} steps each, in "
            f"steps={steps}. Use keras_meta.Kept({start.instances}, "
            f"groups=...) with fewer groups, or shorter windows."
        )


def check_kept_batch(x: Mapping[str, tf.Tensor], start: Kept) -> None:
    """Requires a batch of as many instances as there are kept runs."""
    instances = x["index"].shape[0]
    if instances != start.instances:
        raise ValueError(
            "A batch must hold as many instances as there are kept runs. "
            f"Received: a batch of {instances}, and start={start}. Use "
            f"keras_meta.problems.batches({start.instances}, ...)."
        )
