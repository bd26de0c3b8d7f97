"""A point that learns where its goal is."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_meta.checks import check_positive_number
from keras_meta.reinforcement.environment import Environment
from keras_meta.reinforcement.environment import Transition
from keras_meta.seeds import ALGORITHM


class PointState(NamedTuple):
    """Where points are and want to go.

    Attributes:
        position: `[tasks, rollouts, 2]`.
        goal: `[tasks, rollouts, 2]`.
    """

    position: tf.Tensor
    goal: tf.Tensor


@keras.saving.register_keras_serializable("keras_meta")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PointNavigation(Environment):
    """Moving a point in the plane to a goal that it does not see.

    A task is a goal, `[2]`, drawn uniformly from the square of all points at
    most `extent` from the origin in each coordinate. A rollout begins at the
    origin. The policy sees the position, `[2]`, and answers with an action,
    `[2]`: `step_size` times the action is the move, which is clipped to
    `step_size` in each coordinate. The reward is minus the distance from the
    goal after the move. A rollout ends when both coordinates are within
    `tolerance` of the goal.

    So only the rewards tell one task from another: without adaptation, no
    policy does better than to stand still, which has a return of -38.3 on
    average.

    Args:
        horizon: Most steps of a rollout.
        extent: Half the side of the square of goals.
        step_size: Longest move in a coordinate.
        tolerance: How near the goal a rollout ends.

    Raises:
        ValueError: If an argument is out of range.

    Example:
    >>> import tensorflow as tf
    >>> environment = PointNavigation(horizon=10)
    >>> goals = environment.draw_tasks(3, seed=[0, 1])
    >>> state = environment.reset(goals, 5, seed=[0, 2])
    >>> moved = environment.step(state, tf.ones([3, 5, 2]), seed=[0, 3])
    >>> environment.observe(moved.state)[0, 0].numpy()
    array([0.1, 0.1], dtype=float32)

    References:
        - [Finn et al., 2017](https://arxiv.org/abs/1703.03400), section 5.3.
    """

    horizon: int = 100
    extent: float = 0.5
    step_size: float = 0.1
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive_number(
            extent=self.extent,
            step_size=self.step_size,
            tolerance=self.tolerance,
        )

    def draw_tasks(self, count: int, seed: tf.Tensor) -> tf.Tensor:
        """Draws goals, `[count, 2]`."""
        return tf.random.stateless_uniform(
            [count, 2],
            seed,
            -self.extent,
            self.extent,
            keras.config.floatx(),
            alg=ALGORITHM,
        )

    def reset(
        self, tasks: tf.Tensor, rollouts: int, seed: tf.Tensor
    ) -> PointState:
        """Puts points at the origin; see `Environment.reset`."""
        if tasks.shape.rank != 2 or tasks.shape[-1] != 2:
            raise ValueError(
                "Tasks of PointNavigation are goals, [tasks, 2]. Received: "
                f"tasks of shape {tasks.shape}."
            )
        goals = tf.cast(tasks, keras.config.floatx())
        goals = tf.tile(goals[:, tf.newaxis], [1, rollouts, 1])
        return PointState(tf.zeros_like(goals), goals)

    def observe(self, state: PointState) -> tf.Tensor:
        """Returns the positions, `[tasks, rollouts, 2]`."""
        return state.position

    def step(
        self, state: PointState, action: tf.Tensor, seed: tf.Tensor
    ) -> Transition:
        """Moves points; see `Environment.step`."""
        # The number of tasks may be unknown while a graph is traced.
        if not action.shape.is_compatible_with(state.position.shape):
            raise ValueError(
                "Actions in PointNavigation are moves, [tasks, rollouts, 2]. "
                f"Received: actions of shape {action.shape}. A policy for "
                "`Gaussian` actions has 4 outputs here."
            )
        size = self.step_size
        move = tf.clip_by_value(size * action, -size, size)
        position = state.position + tf.cast(move, state.position.dtype)
        gap = position - state.goal
        return Transition(
            state._replace(position=position),
            -tf.norm(gap, axis=-1),
            tf.reduce_all(tf.abs(gap) < self.tolerance, axis=-1),
        )
