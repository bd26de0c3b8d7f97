"""Undoes the changes of a step that failed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_meta.execution import replicas
from keras_meta.execution.plan import PerThread


class Change(NamedTuple):
    """A new value for a variable.

    Attributes:
        variable: The variable.
        old: The old value.
        new: The new value.
    """

    variable: keras.Variable
    old: tf.Tensor
    new: tf.Tensor

    def apply(self, is_ok: tf.Tensor) -> None:
        """Assigns the new value if `is_ok`, else the old one.

        Replicas see different tasks, so their moving averages would drift
        apart. Each is therefore set to the mean. Seeds advance equally.

        Args:
            is_ok: Whether the step succeeded on all replicas.
        """
        is_average = self.new.dtype.is_floating
        new = replicas.mean(self.new) if is_average else self.new
        self.variable.assign(tf.where(is_ok, new, self.old))


class ModelState:
    """Applies changes of a model's state, immediately or later.

    A call in a user's own loop applies its moving averages and seeds
    immediately. A training step learns only later whether it failed.
    """

    def __init__(self):
        self._held_back = PerThread(None)

    def held_back(self) -> contextlib.AbstractContextManager[list[Change]]:
        """Yields a list that receives this thread's changes unapplied."""
        return self._held_back.using([])

    def change(self, changes: Sequence[Change], is_ok: tf.Tensor) -> None:
        """Applies changes, or holds them back.

        Args:
            changes: The changes.
            is_ok: Whether the step that made them succeeded, a boolean
                scalar.
        """
        finite = [
            tf.reduce_all(tf.math.is_finite(change.new))
            for change in changes
            if change.new.dtype.is_floating
        ]
        is_ok = tf.reduce_all([is_ok, *finite])
        held_back = self._held_back.value
        if held_back is None:
            is_ok = replicas.all_true(is_ok)
            for change in changes:
                change.apply(is_ok)
            return
        held_back += [
            change._replace(new=tf.where(is_ok, change.new, change.old))
            for change in changes
        ]


@contextlib.contextmanager
def undone_unless(
    is_ok: Callable[[], tf.Tensor], variables: Sequence[keras.Variable]
) -> Iterator[None]:
    """Restores variables at the end of the context if a step failed.

    Setting gradients to zero would not suffice: momentum still moves weights.

    Args:
        is_ok: Called at the end. Returns whether the step succeeded, a boolean
            scalar.
        variables: All variables that the step changes.
    """
    before = [tf.identity(v.value) for v in variables]
    yield
    worked = is_ok()
    for variable, old in zip(variables, before, strict=True):
        variable.assign(tf.where(worked, variable.value, old))
