"""Steps that change nothing if they fail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf


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
        """Assigns the new value, or the old one unless `is_ok`."""
        self.variable.assign(tf.where(is_ok, self.new, self.old))


class ModelState:
    """Assigns what calls change of a model's state, at once or later.

    A call in a loop of the user's own assigns moving averages and seeds
    itself. A training step knows only later whether it failed.
    """

    def __init__(self):
        self._held_back: list[Change] | None = None

    @contextlib.contextmanager
    def held_back(self) -> Iterator[list[Change]]:
        """Yields a list that gets the changes, none of which is made."""
        before = self._held_back
        self._held_back = []
        try:
            yield self._held_back
        finally:
            self._held_back = before

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
        if self._held_back is None:
            for change in changes:
                change.apply(is_ok)
            return
        self._held_back += [
            change._replace(new=tf.where(is_ok, change.new, change.old))
            for change in changes
        ]


@contextlib.contextmanager
def undone_unless(
    is_ok: tf.Tensor, variables: Sequence[keras.Variable]
) -> Iterator[None]:
    """Gives variables their old values at the end if a step failed.

    Zero gradients would not be enough: momentum moves weights without them.

    Args:
        is_ok: Whether the step worked, a boolean scalar.
        variables: All that the step changes meanwhile.
    """
    before = [tf.identity(v.value) for v in variables]
    yield
    if tf.distribute.get_strategy().num_replicas_in_sync == 1:
        for variable, old in zip(variables, before, strict=True):
            variable.assign(tf.where(is_ok, variable.value, old))
        return

    def restore(strategy, before, is_ok):
        for variable, old in zip(variables, before, strict=True):
            strategy.extended.update(
                variable.value,
                lambda v, old, ok: v.assign(tf.where(ok, v, old)),
                args=(old, is_ok),
            )

    # A replica may not assign by itself what all of them share.
    tf.distribute.get_replica_context().merge_call(restore, (before, is_ok))
