"""Long runs, of which a meta-gradient sees one window at a time."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple
from typing import Protocol

import tensorflow as tf

from keras_meta.inner.solver import Carry


class Taken(NamedTuple):
    """The steps of a window.

    Attributes:
        carry: The carry after the last step.
        losses: The losses before each step and after the last,
            `[steps + 1, tasks]`.
        values: What is minimized, summed over the window, `[tasks]`.
    """

    carry: Carry
    losses: tf.Tensor
    values: tf.Tensor


class WindowEstimate(NamedTuple):
    """What a window of a run says about the meta-parameters.

    Attributes:
        gradients: One for each meta-parameter.
        memory: What goes on to the next window of the run.
        losses: The losses before each step and after the last,
            `[steps + 1, tasks]`.
        value: What is minimized, summed over the window, the mean over
            tasks.
    """

    gradients: list[tf.Tensor]
    memory: Any
    losses: tf.Tensor
    value: tf.Tensor


class Runs(Protocol):
    """A batch of runs, as a meta-gradient sees it."""

    @property
    def tasks(self) -> int:
        """Number of tasks."""

    def start(self, theta: Sequence[tf.Tensor]) -> Carry:
        """Returns the carry before the first step."""

    def repeated(self, copies: int) -> Runs:
        """Returns runs of copies of the tasks, with a `theta` for each.

        Args:
            copies: How many times to take each task; their order is
                `[copies, tasks]`.
        """

    def resumed(
        self,
        theta: Sequence[tf.Tensor],
        carry: Carry,
        first: int | tf.Tensor,
    ) -> Carry:
        """Returns a carry that has the derivative of the start by `theta`.

        A learned rule may learn its first state. A carry is a constant where
        a window begins, unless it is the first.

        Args:
            theta: Values of the meta-parameters.
            carry: The carry before the window.
            first: Number of the window's first step.
        """

    def take(
        self,
        run: Callable,
        theta: Sequence[tf.Tensor],
        carry: Carry,
        first: int | tf.Tensor,
        steps: int,
    ) -> Taken:
        """Takes the steps of a window.

        Args:
            run: Takes them: `InnerLoop.run`, or the `solve` of a
                meta-gradient.
            theta: Values of the meta-parameters.
            carry: The carry before the window.
            first: Number of the window's first step.
            steps: How many.
        """

    def scaled(self, value: tf.Tensor) -> tf.Tensor:
        """Returns a loss, or a gradient, times the optimizer's loss scale."""
