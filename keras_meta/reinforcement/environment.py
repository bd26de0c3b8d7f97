"""The interface of environments."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any
from typing import NamedTuple

import tensorflow as tf

from keras_meta.checks import check_at_least
from keras_meta.checks import check_int64
from keras_meta.checks import check_positive
from keras_meta.reinforcement.settings import Settings
from keras_meta.seeds import fold_in


class Transition(NamedTuple):
    """What a step of an environment returns.

    Attributes:
        state: The state after the step, nested tensors
            `[tasks, rollouts, ...]`.
        reward: `[tasks, rollouts]`.
        done: Whether the rollout ends with this step, bool,
            `[tasks, rollouts]`.
    """

    state: Any
    reward: tf.Tensor
    done: tf.Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Environment(Settings, abc.ABC):
    """A family of decision processes, one for each task.

    All rollouts of all tasks are computed side by side. An environment holds
    settings alone: its methods are pure functions, and what they draw depends
    on the `seed` that they are given (`[2]`, integers). They must be made of
    TensorFlow operations, as they run inside a compiled loop.

    To add one, subclass this as a frozen dataclass whose fields are the
    settings, register it with Keras, and override the abstract methods.

    Args:
        horizon: Most steps of a rollout.

    Raises:
        ValueError: If `horizon` is not a positive integer.

    Example:
    >>> import dataclasses
    >>> import keras
    >>> import tensorflow as tf
    >>> from keras_meta.reinforcement import Environment, Transition
    >>>
    >>> @keras.saving.register_keras_serializable("example")
    ... @dataclasses.dataclass(frozen=True, kw_only=True)
    ... class Bandit(Environment):
    ...     \"\"\"One action, to be near the task's number.\"\"\"
    ...
    ...     horizon: int = 1
    ...
    ...     def draw_tasks(self, count, seed):
    ...         return tf.random.stateless_normal([count], seed)
    ...
    ...     def reset(self, tasks, rollouts, seed):
    ...         return tf.tile(tasks[:, tf.newaxis], [1, rollouts])
    ...
    ...     def observe(self, state):
    ...         return tf.ones_like(state)[..., tf.newaxis]
    ...
    ...     def step(self, state, action, seed):
    ...         reward = -tf.square(action[..., 0] - state)
    ...         return Transition(state, reward, tf.ones_like(state, tf.bool))
    >>>
    >>> Bandit().draw_tasks(3, seed=[0, 1]).shape
    TensorShape([3])
    """

    horizon: int = 100

    def __post_init__(self) -> None:
        check_positive(horizon=self.horizon)

    @abc.abstractmethod
    def draw_tasks(self, count: int, seed: tf.Tensor) -> tf.Tensor:
        """Draws tasks.

        Args:
            count: How many.
            seed: Seed of the draw.

        Returns:
            What tells the tasks apart, `[count, ...]`.
        """

    @abc.abstractmethod
    def reset(self, tasks: tf.Tensor, rollouts: int, seed: tf.Tensor) -> Any:
        """Begins rollouts.

        Args:
            tasks: The tasks, as `draw_tasks` returns them, `[tasks, ...]`.
            rollouts: Number of rollouts of each task.
            seed: Seed of what is drawn.

        Returns:
            The state, nested tensors `[tasks, rollouts, ...]`. It holds all
            that a step depends on, so also what it needs of the task.
        """

    @abc.abstractmethod
    def observe(self, state: Any) -> tf.Tensor:
        """Returns what a policy sees of a state, `[tasks, rollouts, ...]`."""

    @abc.abstractmethod
    def step(
        self, state: Any, action: tf.Tensor, seed: tf.Tensor
    ) -> Transition:
        """Takes a step.

        It is called after the end of a rollout too, where what it returns
        does not count but must be finite.

        Args:
            state: The state.
            action: The actions, `[tasks, rollouts, ...]`.
            seed: Seed of what is drawn.
        """

    def batches(
        self,
        tasks: int = 1,
        *,
        seed: int = 0,
        start: int = 0,
        num_batches: int | None = None,
    ) -> tf.data.Dataset:
        """Returns batches of tasks to learn from.

        Different seeds or numbers of the batch give different tasks: use one
        seed for training and another for tests.

        Args:
            tasks: Number of tasks in a batch.
            seed: Seed of the tasks.
            start: Number of the first batch.
            num_batches: Number of batches, or `None` for an endless data set.

        Returns:
            A data set of `[tasks, ...]`, as `draw_tasks` returns them.

        Raises:
            ValueError: If an argument is not an integer, or out of range.
        """
        check_positive(tasks=tasks)
        if num_batches is not None:
            check_positive(num_batches=num_batches)
        check_at_least(0, start=start)
        check_int64(seed=seed, start=start)
        numbers = tf.data.Dataset.counter(start)
        if num_batches is not None:
            numbers = numbers.take(num_batches)

        @tf.autograph.experimental.do_not_convert
        def draw(number):
            own = fold_in(tf.stack([tf.constant(seed, tf.int64), 0]), number)
            return self.draw_tasks(tasks, own)

        return numbers.map(draw)
