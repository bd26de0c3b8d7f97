"""What can go wrong in a step, and the errors that say so."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

from keras_meta.execution.not_finite import arguments_not_finite
from keras_meta.inner.class_numbers import LabelRule

_UNDONE = (
    " The step was undone: weights, optimizer, moving averages and metrics "
    "are as they were before it."
)
_SUPPORT = ("support_x", "support_y", "support_sample_weight")
_QUERY = ("query_x",)
_BAD_DATA = (
    "`support_x` or `support_y` contains NaN or infinity, or the model's "
    "weights do."
)
_BAD_WEIGHTS = (
    "`support_x` and `support_y` are finite, so the model's weights contain "
    "NaN or infinity, or the loss overflows."
)
_DIVERGES = (
    "the inner loop diverges: lower the update rule's learning rate, or set "
    "its clip_norm."
)


class Cause(enum.IntEnum):
    """Kinds of failures."""

    NONE = 0
    LABEL = 1
    INNER_LOSS = 2
    WEIGHTS = 3
    PREDICTION = 4
    OUTER_LOSS = 5


class Failure(NamedTuple):
    """The first failure of a run.

    Attributes:
        cause: Kind of failure.
        step: Step at which it occurred.
        task: Index of the task in the batch.
        value: The label if it is out of range, else 0.
        rule: Number of the rule that the label breaks, else 0.
    """

    cause: Cause
    step: int
    task: int
    value: float
    rule: int

    @classmethod
    def of(cls, report: Sequence[float]) -> Failure:
        """Makes a failure from the numbers in a report."""
        cause, step, task, value, rule = report
        return cls(Cause(int(cause)), int(step), int(task), value, int(rule))

    @property
    def is_outer(self) -> bool:
        """Whether every inner loss was finite."""
        return self.cause == Cause.OUTER_LOSS

    def error(
        self,
        rules: Sequence[LabelRule],
        undone: bool = False,
        inputs: dict[str, Any] | None = None,
        hint: str = "",
    ) -> Exception:
        """Returns the error to raise.

        Args:
            rules: The label rules, by number.
            undone: Whether a training step was undone because of the failure.
            inputs: The inputs of the learner, if available, to find out which
                one is at fault.
            hint: Another possible cause of a gradient that is not finite.
        """
        consequence = _UNDONE if undone else ""
        if self.cause == Cause.LABEL:
            message = rules[self.rule].error(self.task, self.value)
            return ValueError(message + consequence)
        message = self._loss_message(undone, inputs)
        if self.is_outer:
            message += hint
        return FloatingPointError(message + consequence)

    def _loss_message(self, undone: bool, inputs: dict[str, Any] | None) -> str:
        if self.cause == Cause.OUTER_LOSS:
            what = ", or its gradient," if undone else ""
            return (
                f"The loss of the query sets{what} is not finite, though "
                "every inner loss is: `query_x` or `query_y` contains NaN, "
                "infinity or labels out of range, or the inner loop diverges."
            )
        if self.cause == Cause.PREDICTION:
            return (
                "The predictions for the query set of task "
                f"{self.task} in the batch are not finite, though the adapted "
                f"weights are. {self._query_hint(inputs)}"
            )
        hint = self._support_hint(inputs)
        if self.cause == Cause.WEIGHTS:
            return (
                f"The adapted weights of task {self.task} in the batch are "
                f"not finite after inner step {self.step}, the last one. {hint}"
            )
        return (
            f"The inner loss is not finite at inner step {self.step} of task "
            f"{self.task} in the batch. {hint}"
        )

    def _query_hint(self, inputs: dict[str, Any] | None) -> str:
        if inputs is None:
            return f"`query_x` contains NaN or infinity, or {_DIVERGES}"
        found = arguments_not_finite(inputs, _QUERY, self.task)
        return _name(found) if found else _sentence(_DIVERGES)

    def _support_hint(self, inputs: dict[str, Any] | None) -> str:
        found = []
        if inputs is not None:
            found = arguments_not_finite(inputs, _SUPPORT, self.task)
        if found:
            return _name(found)
        if self.step:
            return _sentence(_DIVERGES)
        return _BAD_DATA if inputs is None else _BAD_WEIGHTS


def _name(arguments: Sequence[str]) -> str:
    names = " and ".join(f"`{name}`" for name in arguments)
    verb = "contains" if len(arguments) == 1 else "contain"
    return f"{names} of this task {verb} NaN or infinity."


def _sentence(words: str) -> str:
    return words[0].upper() + words[1:]
