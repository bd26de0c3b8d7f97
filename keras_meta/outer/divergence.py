"""Stops `fit` and `evaluate` of an `OptimizerLearner` whose runs diverge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from keras_meta.execution.failures import Failure
from keras_meta.execution.health import Health

_AT_THE_START = (
    "No step has been taken, so the problem's data or its first parameters "
    "contain NaN or infinity."
)
_ON_THE_WAY = (
    "The update rule makes the problem diverge. Lower its output_scale or the "
    "learning rate of `compile`'s optimizer, clip its gradients, or begin with "
    "fewer steps."
)


def stops_on_divergence(
    function: Callable[[Any], Any],
    health: Health,
    tolerated: Callable[[], int],
    objective: str,
    consequence: str,
) -> Callable[[Any], Any]:
    """Makes a function of an iterator raise when too many batches diverge.

    It is for an `OptimizerLearner`.

    Args:
        function: What Keras built from a step.
        health: Reports what is not finite.
        tolerated: Returns how many batches in a row may diverge.
        objective: What is minimized, see `OptimizerLearner`.
        consequence: A sentence that says what a batch that diverges does.
    """
    in_a_row = 0

    def call_and_check(iterator):
        nonlocal in_a_row
        logs = function(iterator)
        failure = health.take()
        in_a_row = 0 if failure is None else in_a_row + 1
        if in_a_row > tolerated():
            in_a_row = 0
            raise FloatingPointError(
                f"{_describe(failure, objective)} {consequence} To go on with "
                "the next batch, pass tolerated_divergences=1 or more."
            )
        return logs

    return call_and_check


def _describe(failure: Failure, objective: str) -> str:
    if not failure.is_outer:
        hint = _AT_THE_START if failure.step == 0 else _ON_THE_WAY
        return (
            f"The loss of instance {failure.task} in the batch is not finite "
            f"at optimization step {failure.step}. {hint}"
        )
    hint = (
        "Take shorter windows; if losses can be negative, use objective='loss'."
        if objective == "log_ratio"
        else "Take shorter windows."
    )
    return (
        "The meta-loss or its gradient is not finite in the window from "
        f"optimization step {failure.step} on, though every loss is. {hint}"
    )
