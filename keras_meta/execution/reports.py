"""Reports of failures inside compiled graphs, as tensors."""

from __future__ import annotations

import dataclasses
import math
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_meta.batching.annotations import map_annotated
from keras_meta.execution.failures import Cause
from keras_meta.execution.failures import Failure
from keras_meta.inner.class_numbers import LabelRule


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


class Found(NamedTuple):
    """The result of a search for a failure.

    Attributes:
        failed: Whether there is one, a boolean scalar.
        report: The value of a `Report`, meaningless if there is none.
    """

    failed: tf.Tensor
    report: tf.Tensor


def first_failure(
    cause: Cause,
    bad: tf.Tensor,
    first: int | tf.Tensor = 0,
    *,
    values: tf.Tensor | None = None,
    rule: int = 0,
    axis: int,
    before: int | tf.Tensor = 0,
) -> Found:
    """Finds the first of some values that failed.

    Args:
        cause: Kind of failure.
        bad: Which values failed, `[tasks, ...]` or `[steps, tasks]`.
        first: Number of the first step.
        values: Value to report for each entry of `bad`, same shape.
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
    report = tf.stack([tf.cast(x, tf.float64) for x in found])
    return Found(at < size, report)


def earliest_failure(reports: tf.Tensor, tasks: int) -> Found:
    """Finds the earliest of the failures that blocks of tasks reported.

    Args:
        reports: Values of reports, `[blocks, 5]`.
        tasks: Number of tasks in a block.
    """
    failed = tf.not_equal(reports[:, 0], float(Cause.NONE))
    at = tf.argmin(
        tf.where(failed, reports[:, 1], reports.dtype.max),
        output_type=tf.int32,
    )
    offset = tf.cast(at * tasks, reports.dtype)
    found = reports[at] + tf.stack([0.0, 0.0, offset, 0.0, 0.0])
    return Found(tf.reduce_any(failed), found)
