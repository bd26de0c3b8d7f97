"""Acting in environments."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from keras_meta.inner.loop import unroll
from keras_meta.reinforcement.environment import Environment
from keras_meta.seeds import fold_in
from keras_meta.seeds import split


class Rollouts(NamedTuple):
    """What was seen and done.

    Attributes:
        observations: Before each step, `[tasks, rollouts, time, ...]`.
        actions: `[tasks, rollouts, time, ...]`.
        rewards: `[tasks, rollouts, time]`; 0 after the end of a rollout.
        running: Whether the rollout had not ended before the step, bool,
            `[tasks, rollouts, time]`. Other steps do not count.
    """

    observations: tf.Tensor
    actions: tf.Tensor
    rewards: tf.Tensor
    running: tf.Tensor

    @property
    def returns(self) -> tf.Tensor:
        """Sums of rewards, `[tasks, rollouts]`."""
        return tf.reduce_sum(self.rewards, axis=-1)


def roll_out(
    environment: Environment,
    act: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    tasks: tf.Tensor,
    rollouts: int,
    seed: tf.Tensor,
    *,
    xla: bool = False,
) -> Rollouts:
    """Acts in an environment, in all rollouts of all tasks side by side.

    Args:
        environment: The environment.
        act: Maps observations, `[tasks, rollouts, ...]`, and a seed, `[2]`,
            to actions, `[tasks, rollouts, ...]`.
        tasks: The tasks, `[tasks, ...]`.
        rollouts: Number of rollouts of each task.
        seed: Seed of all that is drawn, `[2]`. The same seed gives the same
            rollouts.
        xla: Whether XLA will compile the call.

    Returns:
        The rollouts, of `environment.horizon` steps.

    Example:
    >>> import tensorflow as tf
    >>> from keras_meta.reinforcement import PointNavigation, roll_out
    >>> environment = PointNavigation(horizon=20)
    >>> goal = tf.constant([[0.3, -0.2]])
    >>> act = lambda position, seed: 10 * (goal[:, None] - position)
    >>> straight = roll_out(environment, act, goal, 1, seed=[0, 1])
    >>> int(tf.reduce_sum(tf.cast(straight.running, tf.int32)))
    3
    """
    beginning, going_on = split(tf.convert_to_tensor(seed))
    state = environment.reset(tasks, rollouts, beginning)
    running = tf.ones([tf.shape(tasks)[0], rollouts], tf.bool)

    def step(number, carry):
        state, running = carry
        drawing, moving = split(fold_in(going_on, number))
        observation = environment.observe(state)
        action = act(observation, drawing)
        moved = environment.step(state, action, moving)
        reward = tf.where(running, moved.reward, tf.zeros_like(moved.reward))
        seen = Rollouts(observation, action, reward, running)
        still = tf.logical_and(running, tf.logical_not(moved.done))
        return (moved.state, still), seen

    _, seen = unroll(
        step, (state, running), environment.horizon, lay_out=False, xla=xla
    )
    return Rollouts(*map(_time_last, seen))


def _time_last(x: tf.Tensor) -> tf.Tensor:
    """`[time, tasks, rollouts, ...]` to `[tasks, rollouts, time, ...]`."""
    others = range(3, x.shape.rank)
    return tf.transpose(x, [1, 2, 0, *others])
