"""Finding out on the host that a step went wrong inside a compiled graph."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_meta.learners.plan import PerThread

_OK, _LABEL, _INNER, _OUTER = range(4)
_UNHARMED = (
    " The optimizer saw a zero gradient in its place, so the weights are as "
    "finite as before."
)


class Failure(NamedTuple):
    """What went wrong first.

    Attributes:
        cause: What kind of failure.
        step: The step at which.
        task: The task in the batch.
    """

    cause: int
    step: int
    task: int

    @property
    def is_outer(self) -> bool:
        """Whether every inner loss was finite."""
        return self.cause == _OUTER


def can_learn_from(
    loss: tf.Tensor,
    gradients: Sequence[tf.Tensor | None],
    optimizer: keras.optimizers.Optimizer,
) -> tf.Tensor:
    """Tells whether a loss and the norms of its gradients are finite.

    Finite gradients whose squares are not would become NaN in clipping by
    the norm and in Adam.

    Args:
        loss: A scalar.
        gradients: Its gradients, `None` where there is none.
        optimizer: What they go to. One that scales the loss looks for a
            scale at which gradients are finite, so they may not be.

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
    """A failure as cause, inner step and task, or zeros.

    Attributes:
        value: `[3]`, int32.
    """

    value: tf.Tensor


class Health:
    """The first failure of a run, kept in a variable.

    Operations that raise do not exist under XLA, so a step writes what went
    wrong into a variable, and the host looks at it after the step.
    """

    def __init__(self):
        # Each replica keeps its own report; reading adds them up.
        self._report = tf.Variable(
            # TensorFlow keeps int32 variables off a GPU, where XLA would not
            # reach them.
            tf.zeros([3], tf.int64),
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
            name="health",
        )
        # Calls in other threads have reports of their own.
        self._collected = PerThread(None)

    @property
    def is_ok(self) -> tf.Tensor:
        """A boolean scalar, usable inside the step."""
        return tf.equal(self._read()[0], _OK)

    @property
    def is_collecting(self) -> bool:
        """Whether reports of this thread go to somebody who collects them."""
        return self._collected.value is not None

    def collecting(self) -> contextlib.AbstractContextManager[Report]:
        """Keeps this thread's reports out of the variable.

        Yields where they go instead.
        """
        return self._collected.using(Report(tf.zeros([3], tf.int32)))

    def merge(self, reports: tf.Tensor, tasks: int) -> None:
        """Keeps the failure at the earliest step of reports on blocks.

        Args:
            reports: Collected reports, `[blocks, 3]`.
            tasks: Tasks of a block.
        """
        failed = tf.not_equal(reports[:, 0], _OK)
        never = tf.int32.max
        at = tf.argmin(
            tf.where(failed, reports[:, 1], never), output_type=tf.int32
        )
        found = reports[at] + tf.stack([0, 0, at * tasks])
        self._keep(tf.logical_and(self.is_ok, tf.reduce_any(failed)), found)

    def report_labels(
        self, labels: tf.Tensor, ways: int | None, ignored: int | None
    ) -> None:
        """Reports labels outside of `0 .. ways - 1`, but an ignored one.

        Args:
            labels: `[tasks, n, ...]`.
            ways: Number of classes that the model tells apart, if it does.
            ignored: The class number that is ignored, if one is.
        """
        if ways is None:
            return
        labels = tf.cast(labels, tf.int32)
        bad = tf.logical_or(labels < 0, labels >= ways)
        if ignored is not None:
            bad = tf.logical_and(bad, labels != ignored)
        bad = tf.reduce_any(bad, axis=list(range(1, bad.shape.rank)))
        self._first(_LABEL, bad[tf.newaxis])

    def report_inner_losses(
        self, losses: tf.Tensor, first: int | tf.Tensor = 0
    ) -> None:
        """Reports values that are not finite.

        Args:
            losses: `[steps, tasks]`.
            first: Number of the first of the steps.
        """
        self._first(_INNER, tf.logical_not(tf.math.is_finite(losses)), first)

    def report_outer(
        self, is_finite: tf.Tensor, step: int | tf.Tensor = 0
    ) -> None:
        """Reports that what is learned from is not finite, unless it is.

        Args:
            is_finite: A boolean scalar.
            step: The step at which.
        """
        self._first(_OUTER, tf.reshape(tf.logical_not(is_finite), [1, 1]), step)

    def take(self, collected: tf.Tensor | None = None) -> Failure | None:
        """Returns the failure that was reported, and forgets it.

        Args:
            collected: The value of a collected report; by default what the
                variable holds.
        """
        report = self._report if collected is None else collected
        failure = Failure(*report.numpy().tolist())
        if failure.cause == _OK:
            return None
        if collected is None:
            self._report.assign(tf.zeros([3], tf.int64))
        return failure

    def check(
        self,
        ways: int | None,
        training: bool = False,
        collected: tf.Tensor | None = None,
    ) -> None:
        """Raises if a failure was reported, and forgets it.

        Args:
            ways: Number of classes that the model tells apart, if it does.
            training: Whether an optimizer took part.
            collected: See `take`.

        Raises:
            FloatingPointError: If a loss was not finite.
            ValueError: If a label was out of range.
        """
        failure = self.take(collected)
        if failure is None:
            return
        _raise_if_label(failure, ways)
        _, step, task = failure
        if failure.is_outer:
            what = ", or its gradient," if training else ""
            raise FloatingPointError(
                f"The loss of the query sets{what} is not finite, though "
                "every inner loss is: the query sets contain NaN or infinity "
                "or labels out of range, or the inner loop diverges."
                f"{_UNHARMED if training else ''}"
            )
        hint = (
            "The data or the model's weights contain NaN or infinity."
            if step == 0
            else "The inner loop diverges: lower the update rule's "
            "learning rate, or set its clip_norm."
        )
        raise FloatingPointError(
            f"The inner loss is not finite at inner step {step} of task "
            f"{task} in the batch. {hint}{_UNHARMED if training else ''}"
        )

    def check_labels(
        self, ways: int | None, collected: tf.Tensor | None = None
    ) -> None:
        """Raises if a label was out of range; forgets what was reported.

        Args:
            ways: Number of classes that the model tells apart, if it does.
            collected: See `take`.

        Raises:
            ValueError: If a label was out of range.
        """
        failure = self.take(collected)
        if failure is not None:
            _raise_if_label(failure, ways)

    def _first(
        self, cause: int, bad: tf.Tensor, first: int | tf.Tensor = 0
    ) -> None:
        """Keeps the first True of `[steps, tasks]`, if nothing is kept."""
        tasks = tf.shape(bad)[1]
        at = tf.argmax(tf.reshape(bad, [-1]), output_type=tf.int32)
        found = tf.stack([cause, first + at // tasks, at % tasks])
        new = tf.logical_and(self.is_ok, tf.reduce_any(bad))
        self._keep(new, found)

    def _read(self) -> tf.Tensor:
        if self.is_collecting:
            return self._collected.value.value
        return tf.cast(self._report.read_value(), tf.int32)

    def _keep(self, new: tf.Tensor, found: tf.Tensor) -> None:
        """Replaces the report by `found` if `new`."""
        value = tf.where(new, found, self._read())
        if self.is_collecting:
            self._collected.value.value = value
        else:
            self._report.assign(tf.cast(value, tf.int64))


def _raise_if_label(failure: Failure, ways: int | None) -> None:
    if failure.cause == _LABEL:
        raise ValueError(
            f"Labels must be in 0..{(ways or 0) - 1}: the model has {ways} "
            f"outputs. Task {failure.task} of the batch has a label outside. "
            "Relabel each task's classes, or give the model more outputs."
        )
