"""Steps that change nothing if they fail."""

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
        old: Its value so far.
        new: Its new value.
    """

    variable: keras.Variable
    old: tf.Tensor
    new: tf.Tensor

    def apply(self, is_ok: tf.Tensor) -> None:
        """Assigns the new value, or the old one unless `is_ok`.

        Replicas see tasks of their own, so that their moving averages would
        drift apart; each is given the mean. Seeds advance alike.

        Args:
            is_ok: Whether the step worked on all replicas.
        """
        is_average = self.new.dtype.is_floating
        new = replicas.mean(self.new) if is_average else self.new
        self.variable.assign(tf.where(is_ok, new, self.old))


class ModelState:
    """Assigns what calls change of a model's state, at once or later.

    A call in a loop of the user's own assigns moving averages and seeds
    itself. A training step knows only later whether it failed.
    """

    def __init__(self):
        self._held_back = PerThread(None)

    def held_back(self) -> contextlib.AbstractContextManager[list[Change]]:
        """Yields a list that gets this thread's changes; none is made."""
        return self._held_back.using([])

    def change(self, changes: Sequence[Change], is_ok: tf.Tensor) -> None:
        """Makes changes, or holds them back.

        Args:
            changes: The changes.
            is_ok: Whether what made them worked, a boolean scalar.
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
    """Gives variables their old values at the end if a step failed.

    Zero gradients would not be enough: momentum moves weights without them.

    Args:
        is_ok: Returns at the end whether the step worked, a boolean scalar.
        variables: All that the step changes meanwhile.
    """
    before = [tf.identity(v.value) for v in variables]
    yield
    worked = is_ok()
    for variable, old in zip(variables, before, strict=True):
        variable.assign(tf.where(worked, variable.value, old))
