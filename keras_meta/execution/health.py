"""The first failure of a run, reported by its graphs, checked on the host."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.execution import replicas
from keras_meta.execution.failures import Cause
from keras_meta.execution.failures import Failure
from keras_meta.execution.not_finite import tasks_not_finite
from keras_meta.execution.plan import PerThread
from keras_meta.execution.reports import Found
from keras_meta.execution.reports import Report
from keras_meta.execution.reports import earliest_failure
from keras_meta.execution.reports import first_failure
from keras_meta.inner.class_numbers import LabelRule


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
        self._keep(earliest_failure(reports, tasks))

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
        self._keep(
            first_failure(
                Cause.LABEL,
                tf.logical_not(rule.classes.contain(labels)),
                values=labels,
                rule=self._number(rule),
                axis=0,
            )
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
        self._keep(
            first_failure(Cause.INNER_LOSS, bad, first, axis=1, before=before)
        )

    def report_weights(self, weights: Sequence[tf.Tensor], step: int) -> None:
        """Reports adapted weights that are not finite.

        Args:
            weights: `[tasks, *shape]` each.
            step: Number of steps taken.
        """
        self._keep(
            first_failure(
                Cause.WEIGHTS, tasks_not_finite(weights), step, axis=0
            )
        )

    def report_predictions(self, predictions) -> None:
        """Reports predictions that are not finite.

        Args:
            predictions: Nested tensors, `[tasks, q, ...]` each.
        """
        outputs = keras.tree.flatten(predictions)
        outputs = [y for y in outputs if y.dtype.is_floating]
        if outputs:
            self._keep(
                first_failure(
                    Cause.PREDICTION, tasks_not_finite(outputs), axis=0
                )
            )

    def report_outer(
        self, is_finite: tf.Tensor, step: int | tf.Tensor = 0
    ) -> None:
        """Reports an outer loss, or gradient, that is not finite.

        Args:
            is_finite: Whether both are finite, a boolean scalar.
            step: The step of the loss.
        """
        bad = tf.reshape(tf.logical_not(is_finite), [1])
        self._keep(first_failure(Cause.OUTER_LOSS, bad, step, axis=0))

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

    def _read(self) -> tf.Tensor:
        if self.is_collecting:
            return self._collected.value.value
        return self._report.read_value()

    def _keep(self, found: Found) -> None:
        """Keeps what was found, unless there was a failure before it."""
        is_new = tf.logical_and(self.is_ok, found.failed)
        value = tf.where(is_new, found.report, self._read())
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
