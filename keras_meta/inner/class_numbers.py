"""Labels that are class numbers."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from keras_meta.inner.inner_loss import InnerLoss

# Losses look classes up by int32.
_LARGEST = tf.int32.max


@dataclasses.dataclass(frozen=True)
class ClassNumbers:
    """What labels may be: whole numbers that name a class.

    Labels are compared in their own type. A cast would turn `2**32`, 0.5 and
    NaN into class 0.

    Attributes:
        ways: Number of classes that the model distinguishes, if known.
        ignored: A further number, whose examples do not count, if any.
    """

    ways: int | None
    ignored: int | None = None

    @classmethod
    def of(cls, loss: InnerLoss, ways: int | None) -> ClassNumbers | None:
        """Returns what labels a loss takes, or `None` for any numbers.

        Args:
            loss: The loss.
            ways: Number of classes that the model distinguishes, if known.
        """
        return cls(ways, loss.ignored_class) if loss.is_sparse else None

    @property
    def requirement(self) -> str:
        """The sentence of an error that says what labels must be."""
        if self.ways is None:
            return "Labels must be whole numbers of at least 0."
        return (
            f"Labels must be in 0..{self.ways - 1}: the model tells "
            f"{self.ways} classes apart."
        )

    @property
    def way_out(self) -> str:
        """The sentence of an error that names the way out."""
        return (
            "Relabel the classes with whole numbers from 0 on, or make a model "
            "for more classes."
        )

    def contain(self, labels: tf.Tensor) -> tf.Tensor:
        """Returns which labels are allowed, of the shape of `labels`."""
        if labels.dtype == tf.string:
            return tf.zeros_like(labels, tf.bool)
        if labels.dtype.is_bool:
            labels = tf.cast(labels, tf.int32)
        is_whole = True
        if labels.dtype.is_floating:
            labels = tf.cast(labels, tf.float64)
            is_whole = tf.equal(labels, tf.floor(labels))
        else:
            # The largest numbers of uint64 have no place in int64.
            if labels.dtype == tf.uint64:
                labels = tf.minimum(labels, tf.cast(2 * _LARGEST, tf.uint64))
            labels = tf.cast(labels, tf.int64)
        last = _LARGEST if self.ways is None else self.ways - 1
        fits = tf.logical_and(
            labels >= tf.cast(0, labels.dtype),
            labels <= tf.cast(last, labels.dtype),
        )
        if self.ignored is not None:
            ignored = tf.equal(labels, tf.cast(self.ignored, labels.dtype))
            fits = tf.logical_or(fits, ignored)
        return tf.logical_and(fits, is_whole)

    def replace_others(self, labels: tf.Tensor) -> tf.Tensor:
        """Returns labels with class 0 in place of those not allowed, int32.

        Without XLA, the loss itself would raise an error for them.
        """
        fits = self.contain(labels)
        zeros = tf.zeros_like(labels)
        return tf.cast(tf.where(fits, labels, zeros), tf.int32)


@dataclasses.dataclass(frozen=True)
class LabelRule:
    """What the labels of one argument must be.

    Attributes:
        argument: What errors call the labels, such as `query_y['digit']`.
        classes: The class numbers that they may be.
    """

    argument: str
    classes: ClassNumbers

    def error(self, task: int, label: float) -> str:
        """Returns the message of an error.

        Args:
            task: The task in the batch.
            label: One of its labels, which is not allowed.
        """
        label = int(label) if label.is_integer() else label
        return (
            f"{self.classes.requirement} Task {task} of the batch has one in "
            f"`{self.argument}` that is not. Received: label {label}. "
            f"{self.classes.way_out}"
        )
