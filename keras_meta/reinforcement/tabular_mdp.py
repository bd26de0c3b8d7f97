"""Decision processes of few states and actions."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_meta.checks import check_finite_values
from keras_meta.checks import describe
from keras_meta.reinforcement.environment import Environment
from keras_meta.reinforcement.environment import Transition
from keras_meta.seeds import ALGORITHM


class TabularState(NamedTuple):
    """Where rollouts are.

    Attributes:
        place: Numbers of states, int32, `[tasks, rollouts]`.
        task: Numbers of tasks, int32, `[tasks, rollouts]`.
    """

    place: tf.Tensor
    task: tf.Tensor


@keras.saving.register_keras_serializable("keras_meta")
@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TabularMDP(Environment):
    """A decision process that is given by tables.

    A task is the number of its table of rewards. All tasks share the
    probabilities of transitions. A rollout begins in state 0. The policy sees
    the state, one-hot, and answers with the number of an action.

    Args:
        transitions: Probabilities of the next state, `[states, actions,
            states]`.
        rewards: Rewards, `[tasks, states, actions]`.
        horizon: Steps of a rollout.

    Raises:
        ValueError: If the tables do not fit each other, or probabilities are
            negative or do not add up to 1.

    Example:
    >>> stay_or_swap = [[[1, 0], [0, 1]], [[0, 1], [1, 0]]]
    >>> environment = TabularMDP(
    ...     transitions=stay_or_swap,
    ...     rewards=[[[0, 0], [1, 1]]],
    ...     horizon=3,
    ... )
    >>> state = environment.reset(tf.constant([0]), 2, seed=[0, 1])
    >>> moved = environment.step(state, tf.constant([[0, 1]]), seed=[0, 2])
    >>> moved.state.place.numpy()
    array([[0, 1]], dtype=int32)
    """

    transitions: npt.ArrayLike
    rewards: npt.ArrayLike
    horizon: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        transitions = _as_table("transitions", self.transitions)
        rewards = _as_table("rewards", self.rewards)
        object.__setattr__(self, "transitions", transitions)
        object.__setattr__(self, "rewards", rewards)
        fits = min(transitions.size, rewards.size) > 0 and (
            transitions.ndim == 3
            and transitions.shape[2] == transitions.shape[0]
            and rewards.ndim == 3
            and rewards.shape[1:] == transitions.shape[:2]
        )
        if not fits:
            raise ValueError(
                "`transitions` must be [states, actions, states] and "
                "`rewards` [tasks, states, actions]. Received: "
                f"transitions={describe(transitions)}, "
                f"rewards={describe(rewards)}"
            )
        sums = transitions.sum(-1)
        if np.any(transitions < 0) or not np.allclose(sums, 1):
            raise ValueError(
                "`transitions` must be probabilities that add up to 1 over "
                "the last axis. Received: sums from "
                f"{sums.min():g} to {sums.max():g}, and a smallest entry of "
                f"{transitions.min():g}."
            )

    def draw_tasks(self, count: int, seed: tf.Tensor) -> tf.Tensor:
        """Draws numbers of tasks, int32, `[count]`."""
        kinds = np.shape(self.rewards)[0]
        return tf.random.stateless_uniform(
            [count], seed, 0, kinds, tf.int32, alg=ALGORITHM
        )

    def reset(
        self, tasks: tf.Tensor, rollouts: int, seed: tf.Tensor
    ) -> TabularState:
        """Begins in state 0; see `Environment.reset`."""
        if tasks.shape.rank != 1 or not tasks.dtype.is_integer:
            raise ValueError(
                "Tasks of a TabularMDP are numbers of tables, integers "
                f"[tasks]. Received: tasks of shape {tasks.shape} and type "
                f"{tasks.dtype.name}."
            )
        tasks = tf.cast(tasks, tf.int32)
        tasks = tf.tile(tasks[:, tf.newaxis], [1, rollouts])
        return TabularState(tf.zeros_like(tasks), tasks)

    def observe(self, state: TabularState) -> tf.Tensor:
        """Returns states, one-hot, `[tasks, rollouts, states]`."""
        states = np.shape(self.transitions)[0]
        return tf.one_hot(state.place, states, dtype=keras.config.floatx())

    def step(
        self, state: TabularState, action: tf.Tensor, seed: tf.Tensor
    ) -> Transition:
        """Draws the next states; see `Environment.step`."""
        dtype = keras.config.floatx()
        places = tf.stack([state.place, action], axis=-1)
        tables = tf.constant(self.rewards, dtype)
        reward = tf.gather_nd(
            tables, tf.concat([state.task[..., tf.newaxis], places], axis=-1)
        )
        # The next state is the first whose cumulative probability exceeds a
        # uniform number.
        sums = tf.cumsum(tf.constant(self.transitions, dtype), axis=-1)
        drawn = tf.random.stateless_uniform(
            tf.shape(action), seed, dtype=dtype, alg=ALGORITHM
        )
        below = tf.gather_nd(sums, places)[..., :-1] <= drawn[..., tf.newaxis]
        place = tf.reduce_sum(tf.cast(below, tf.int32), axis=-1)
        done = tf.zeros_like(action, tf.bool)
        return Transition(state._replace(place=place), reward, done)


def _as_table(name: str, values: npt.ArrayLike) -> np.ndarray:
    try:
        table = np.asarray(values, float)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"`{name}` must be an array of numbers. Received: "
            f"{name}={describe(values)}"
        ) from None
    check_finite_values(**{name: table})
    return table
