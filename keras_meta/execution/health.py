"""Reports of failures inside compiled graphs, checked on the host."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import math
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_meta.batching.annotations import map_annotated
from keras_meta.execution import replicas
from keras_meta.execution.not_finite import arguments_not_finite
from keras_meta.execution.plan import PerThread
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


def can_learn_from(
    loss: tf.Tensor,
    gradients: Sequence[tf.Tensor | None],
    optimizer: keras.optimizers.Optimizer,
) -> tf.Tensor:
    """Returns whether a loss and the norms of its gradients are finite.

    Norms matter because Adam and clipping square the gradients: a finite
    gradient with an infinite square would become NaN.

    Args:
        loss: A scalar.
        gradients: Its gradients. An entry may be `None`.
        optimizer: The optimizer that applies the gradients. A loss-scaling
            optimizer searches for a scale at which gradients are finite, so
            theirs are not checked.

    Returns:
        A boolean scalar.
    """
    needed = [loss]
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        known = [g for g in gradients if g is not None]
        needed += [tf.reduce_sum(tf.square(g)) for g in known]
    return tf.reduce_all([tf.math.is_finite(x) for x in needed])


@dataclasses.dataclass
class Report:
    """The fields of a failure, or zeros.

    Attributes:
        value: `[5]`, float64, which represents integers up to 2**53 exactly.
    """

    value: tf.Tensor

    @classmethod
    def empty(cls) -> Report:
        """Returns the report of a run without failures."""
        return cls(tf.zeros([len(Failure._fields)], tf.float64))

    def assertions(self, rule: LabelRule | None) -> list[tf.Operation]:
        """Returns operations that raise if there was a failure.

        They are for a SavedModel, where no host code checks the report.

        Args:
            rule: The rule for labels, if they are class numbers.
        """
        _, step, task, *_ = tf.unstack(self.value)
        index = tf.cast(task, tf.int32)
        return [
            *self._label_assertions(rule),
            self._require_no(
                Cause.INNER_LOSS,
                "The inner loss must be finite; `support_x` or `support_y` "
                "contains NaN or infinity, or the inner loop diverges. It is "
                "not at inner step",
                tf.cast(step, tf.int32),
                "of task",
                index,
            ),
            self._require_no(
                Cause.WEIGHTS,
                "The adapted weights must be finite; `support_x` or "
                "`support_y` contains NaN or infinity, or the inner loop "
                "diverges. They are not in task",
                index,
            ),
            self._require_no(
                Cause.PREDICTION,
                "The predictions must be finite; `query_x` contains NaN or "
                "infinity, or the inner loop diverges. They are not in task",
                index,
            ),
        ]

    def without_wrong_labels(self, outputs: Any, rule: LabelRule | None) -> Any:
        """Guards outputs against being used if a label was out of range.

        In that case, the outputs raise. Under XLA, which drops assertions,
        they are NaN.

        Args:
            outputs: Nested tensors.
            rule: The rule for labels, if they are class numbers.
        """
        if rule is None:
            return outputs
        is_bad = self._is(Cause.LABEL)

        def guard(y):
            if not y.dtype.is_floating:
                return tf.identity(y)
            return tf.where(is_bad, tf.constant(math.nan, y.dtype), y)

        with tf.control_dependencies(self._label_assertions(rule)):
            return keras.tree.map_structure(
                lambda y: map_annotated(guard, y), outputs
            )

    def _label_assertions(self, rule: LabelRule | None) -> list[tf.Operation]:
        if rule is None:
            return []
        _, _, task, value, _ = tf.unstack(self.value)
        classes = rule.classes
        return [
            self._require_no(
                Cause.LABEL,
                f"{classes.requirement} {classes.way_out} Received in "
                f"`{rule.argument}`: label",
                value,
                "in task",
                tf.cast(task, tf.int32),
            )
        ]

    def _require_no(self, cause: Cause, *message) -> tf.Operation:
        return tf.debugging.Assert(
            tf.logical_not(self._is(cause)), list(message)
        )

    def _is(self, cause: Cause) -> tf.Tensor:
        return tf.equal(self.value[0], float(cause))


class Health:
    """The first failure of a run, kept in a variable.

    Operations cannot raise under XLA. So a step writes its failure into a
    variable, which the host checks after the step.
    """

    def __init__(self):
        # Each replica has its own report and its own number of tasks.
        self._strategy = tf.distribute.get_strategy()
        self._report = _of_each_replica(Report.empty().value, "health")
        # TensorFlow places int32 variables on the host, where XLA on a GPU
        # cannot access them.
        self._tasks = _of_each_replica(tf.zeros([], tf.int64), "tasks")
        # Compiled graphs refer to these by number, so they are kept.
        self._rules: list[LabelRule] = []
        # Calls in other threads have their own reports.
        self._collected = PerThread(None)

    @property
    def is_ok(self) -> tf.Tensor:
        """A boolean scalar, usable inside the step."""
        return tf.equal(self._read()[0], float(Cause.NONE))

    @property
    def is_ok_everywhere(self) -> tf.Tensor:
        """A boolean scalar: whether no replica has failed."""
        return replicas.all_true(self.is_ok)

    @property
    def is_collecting(self) -> bool:
        """Whether this thread's reports are being collected."""
        return self._collected.value is not None

    def collecting(self) -> contextlib.AbstractContextManager[Report]:
        """Collects this thread's reports instead of storing them.

        Yields the report that collects them.
        """
        return self._collected.using(Report.empty())

    def merge(self, reports: tf.Tensor, tasks: int) -> None:
        """Keeps the earliest failure among those that blocks reported.

        Args:
            reports: Collected reports, `[blocks, 5]`.
            tasks: Number of tasks in a block.
        """
        failed = tf.not_equal(reports[:, 0], float(Cause.NONE))
        at = tf.argmin(
            tf.where(failed, reports[:, 1], reports.dtype.max),
            output_type=tf.int32,
        )
        offset = tf.cast(at * tasks, reports.dtype)
        found = reports[at] + tf.stack([0.0, 0.0, offset, 0.0, 0.0])
        self._keep(tf.logical_and(self.is_ok, tf.reduce_any(failed)), found)

    def count_tasks(self, tasks: int | tf.Tensor) -> None:
        """Records how many tasks this replica has.

        Args:
            tasks: Number of tasks in the replica's part of the batch.
        """
        if not self.is_collecting and replicas.is_one_of_several():
            self._tasks.assign(tf.cast(tasks, tf.int64))

    def report_labels(self, labels: tf.Tensor, rule: LabelRule) -> None:
        """Reports labels that break a rule.

        Args:
            labels: `[tasks, n, ...]`.
            rule: The rule that they must satisfy.
        """
        self._first(
            Cause.LABEL,
            tf.logical_not(rule.classes.contain(labels)),
            values=labels,
            rule=self._number(rule),
            axis=0,
        )

    def _number(self, rule: LabelRule) -> int:
        """Returns the number that stands for a rule in a report."""
        if rule not in self._rules:
            self._rules.append(rule)
        return self._rules.index(rule)

    def report_inner_losses(
        self, losses: tf.Tensor, first: int | tf.Tensor = 0
    ) -> None:
        """Reports inner losses that are not finite.

        Args:
            losses: `[steps, tasks]`.
            first: Number of the first step.
        """
        self.report_finite_losses(tf.math.is_finite(losses), first)

    def report_finite_losses(
        self,
        is_finite: tf.Tensor,
        first: int | tf.Tensor = 0,
        before: int | tf.Tensor = 0,
    ) -> None:
        """Reports inner losses that are not finite.

        Args:
            is_finite: Whether they are, `[steps, tasks]`.
            first: Number of the first of the steps.
            before: How many tasks of the batch come before these, int64.
        """
        bad = tf.logical_not(is_finite)
        self._first(Cause.INNER_LOSS, bad, first, axis=1, before=before)

    def report_weights(self, weights: Sequence[tf.Tensor], step: int) -> None:
        """Reports adapted weights that are not finite.

        Args:
            weights: `[tasks, *shape]` each.
            step: Number of steps taken.
        """
        self._first(Cause.WEIGHTS, _bad_tasks(weights), step, axis=0)

    def report_predictions(self, predictions) -> None:
        """Reports predictions that are not finite.

        Args:
            predictions: Nested tensors, `[tasks, q, ...]` each.
        """
        outputs = keras.tree.flatten(predictions)
        outputs = [y for y in outputs if y.dtype.is_floating]
        if outputs:
            self._first(Cause.PREDICTION, _bad_tasks(outputs), axis=0)

    def report_outer(
        self, is_finite: tf.Tensor, step: int | tf.Tensor = 0
    ) -> None:
        """Reports an outer loss, or gradient, that is not finite.

        Args:
            is_finite: Whether both are finite, a boolean scalar.
            step: The step of the loss.
        """
        bad = tf.reshape(tf.logical_not(is_finite), [1])
        self._first(Cause.OUTER_LOSS, bad, step, axis=0)

    def take(self, collected: tf.Tensor | None = None) -> Failure | None:
        """Returns the first reported failure, and forgets it.

        If several replicas failed, returns the failure at the earliest step.
        Its task is an index into the whole batch.

        Args:
            collected: The value of a collected report. By default, the
                variables are read.
        """
        if collected is not None:
            value = collected.numpy()
            return Failure.of(value.tolist()) if value[0] else None
        reports = self._strategy.experimental_local_results(self._report)
        # Runs after every step. A variable's `numpy` would read it twice.
        values = [report.value().numpy() for report in reports]
        if not any(value[0] for value in values):
            return None
        sizes = self._strategy.experimental_local_results(self._tasks)
        failures, before = [], 0
        for value, report, tasks in zip(values, reports, sizes, strict=True):
            if value[0]:
                failure = Failure.of(value.tolist())
                failures.append(failure._replace(task=failure.task + before))
                report.assign(Report.empty().value)
            before += int(tasks.numpy())
        return min(failures, key=lambda failure: failure.step)

    def check(
        self,
        collected: tf.Tensor | None = None,
        *,
        undone: bool = False,
        inputs: dict[str, Any] | None = None,
        hint: str = "",
    ) -> None:
        """Raises if a failure was reported, and forgets it.

        Args:
            collected: See `take`.
            undone: Whether a training step was undone because of it.
            inputs: See `Failure.error`.
            hint: See `Failure.error`.

        Raises:
            FloatingPointError: If a value was not finite.
            ValueError: If a label was out of range.
        """
        failure = self.take(collected)
        if failure is not None:
            raise failure.error(self._rules, undone, inputs, hint)

    def check_labels(self, collected: tf.Tensor) -> None:
        """Raises if a label was out of range.

        Args:
            collected: The value of a collected report.

        Raises:
            ValueError: If a label was out of range.
        """
        failure = self.take(collected)
        if failure is not None and failure.cause == Cause.LABEL:
            raise failure.error(self._rules)

    def _first(
        self,
        cause: Cause,
        bad: tf.Tensor,
        first: int | tf.Tensor = 0,
        *,
        values: tf.Tensor | None = None,
        rule: int = 0,
        axis: int,
        before: int | tf.Tensor = 0,
    ) -> None:
        """Records the first failure, unless one is recorded already.

        Args:
            cause: Kind of failure.
            bad: Which values failed, `[tasks, ...]` or `[steps, tasks]`.
            first: Number of the first step.
            values: Value to record for each entry of `bad`, same shape.
            rule: Number of the label rule that is broken.
            axis: The task axis. If an axis precedes it, that is the step axis.
            before: Number of tasks of the batch before these, int64.
        """
        flat = tf.reshape(bad, [-1])
        size = tf.size(flat)
        # `argmax` refuses an empty tensor.
        numbers = tf.range(size)
        at = tf.reduce_min(tf.where(flat, numbers, size))
        tasks = tf.maximum(tf.shape(bad)[axis], 1)
        per_task = tf.maximum(size // tasks, 1) if axis == 0 else 1
        step = first + (at // tasks if axis else 0)
        value = tf.zeros([], tf.float64)
        if values is not None:
            is_it = tf.reshape(tf.equal(numbers, at), tf.shape(bad))
            values = tf.cast(values, tf.float64)
            value = tf.reduce_sum(tf.where(is_it, values, 0.0))
        task = tf.cast(at // per_task % tasks, tf.int64) + before
        found = [cause, step, task, value, rule]
        found = tf.stack([tf.cast(x, tf.float64) for x in found])
        self._keep(tf.logical_and(self.is_ok, at < size), found)

    def _read(self) -> tf.Tensor:
        if self.is_collecting:
            return self._collected.value.value
        return self._report.read_value()

    def _keep(self, new: tf.Tensor, found: tf.Tensor) -> None:
        """Replaces the report with `found` if `new` is true."""
        value = tf.where(new, found, self._read())
        if self.is_collecting:
            self._collected.value.value = value
        else:
            self._report.assign(value)


def _of_each_replica(value: tf.Tensor, name: str) -> tf.Variable:
    return tf.Variable(
        value,
        trainable=False,
        synchronization=tf.VariableSynchronization.ON_READ,
        aggregation=tf.VariableAggregation.NONE,
        name=name,
    )


def _bad_tasks(tensors: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns whether each task has a value that is not finite, `[tasks]`."""

    def is_bad(x):
        finite = tf.math.is_finite(x)
        return tf.reduce_any(
            tf.logical_not(finite), list(range(1, x.shape.rank))
        )

    return tf.reduce_any(tf.stack([is_bad(x) for x in tensors]), axis=0)
