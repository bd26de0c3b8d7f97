"""Influence balancing: runs that mislead whoever looks only a short way back.

A state `s` of 23 numbers follows `s <- A s + theta v`, where `A` mixes each
number with the next one, half and half. The loss is `(s[0] - 1)^2 / 2`. The
first numbers are pushed by `+theta` and reach `s[0]` soon, more of them are
pushed by `-theta` and reach it late. So a larger `theta` raises `s[0]` at
first, and lowers it in the long run.

References:
    - [Tallec and Ollivier, 2017](https://arxiv.org/abs/1702.05043).
    - [Vicol et al., 2021](https://arxiv.org/abs/2112.13835).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_meta.inner.solver import Carry
from keras_meta.meta_gradients.runs import Taken

SIZE = 23
_PUSHED_UP = 10
_MIXING = 0.5 * np.eye(SIZE) + 0.5 * np.eye(SIZE, k=1)
_PUSH = np.where(np.arange(SIZE) < _PUSHED_UP, 1.0, -1.0)


def influence(steps: int | None = None) -> float:
    """Returns the derivative of `s[0]` by `theta`.

    Args:
        steps: How many steps `theta` has acted for; `None` for the limit.
    """
    if steps is None:
        return float(np.linalg.solve(np.eye(SIZE) - _MIXING, _PUSH)[0])
    total, late = np.zeros(SIZE), _PUSH
    for _ in range(steps):
        total, late = total + late, _MIXING @ late
    return float(total[0])


def gradient(theta: float, steps: int | None = None) -> float:
    """Returns the gradient of the loss where the state has settled.

    Args:
        theta: The meta-parameter; the state settles at `influence() * theta`.
        steps: How many steps the gradient goes back; `None` for all, which
            is the exact gradient.
    """
    return (influence() * theta - 1.0) * influence(steps)


def optimum() -> float:
    """Returns where the loss of the settled state is least."""
    return 1.0 / influence()


@dataclasses.dataclass(frozen=True)
class InfluenceBalancing:
    """Runs of the dynamics, see `keras_meta.meta_gradients.runs.Runs`.

    The state is 1 everywhere at the start. Of a window, the loss after its
    last step is minimized. There are no gradients within a run, so all ways
    to take its steps are the same.

    Attributes:
        tasks: Number of runs.
    """

    tasks: int = 1

    def start(self, theta: Sequence[tf.Tensor]) -> Carry:
        """Returns the carry before the first step."""
        return Carry([tf.ones([self.tasks, SIZE], theta[0].dtype)], (), [])

    def repeated(self, copies: int) -> InfluenceBalancing:
        """Returns more runs, with a `theta` for each."""
        return InfluenceBalancing(copies * self.tasks)

    def resumed(
        self,
        theta: Sequence[tf.Tensor],
        carry: Carry,
        first: int | tf.Tensor,
    ) -> Carry:
        """Returns the carry, as the start does not depend on `theta`."""
        return carry

    def take(
        self,
        run: Callable,
        theta: Sequence[tf.Tensor],
        carry: Carry,
        first: int | tf.Tensor,
        steps: int,
    ) -> Taken:
        """Takes the steps of a window."""
        (state,) = carry.params
        mixing = tf.constant(_MIXING.T, state.dtype)
        # One `theta` for all runs or one for each.
        push = tf.reshape(theta[0], [-1, 1]) * tf.constant(_PUSH, state.dtype)
        losses = [_loss(state)]
        for _ in range(steps):
            state = tf.matmul(state, mixing) + push
            losses.append(_loss(state))
        carry = carry._replace(params=[state])
        return Taken(carry, tf.stack(losses), losses[-1])

    def scaled(self, value: tf.Tensor) -> tf.Tensor:
        """Returns the value, as no optimizer scales losses here."""
        return value


def _loss(state: tf.Tensor) -> tf.Tensor:
    return tf.square(state[:, 0] - 1.0) / 2.0
