"""The state of runs that are kept, and windows of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_meta.outer.kept import Kept
from keras_meta.outer.optimizer_metrics import Outcome


class Group(NamedTuple):
    """A group of runs, or all of them along a first axis.

    Attributes:
        number: Number of the group.
        seed: Seed of its instances.
        index: Number of its first instance.
        position: Steps that its runs have taken; at 0 they begin.
        memory: What the meta-gradient remembers, a flat list of tensors.
    """

    number: tf.Tensor
    seed: tf.Tensor
    index: tf.Tensor
    position: tf.Tensor
    memory: list[tf.Tensor]


class GroupWindow(NamedTuple):
    """A window of a group of kept runs, or of all along a first axis.

    Attributes:
        memory: What to remember, a flat list.
        gradients: One for each weight of the rule.
        value: What is minimized, summed over the window.
        weight: The sum of the steps' weights.
        final_loss: The mean loss after the last step.
        is_sound: Whether all of this is finite.
    """

    memory: list[tf.Tensor]
    gradients: list[tf.Tensor]
    value: tf.Tensor
    weight: tf.Tensor
    final_loss: tf.Tensor
    is_sound: tf.Tensor


@dataclasses.dataclass(frozen=True)
class KeptRuns:
    """The state of kept runs, in Keras variables.

    Attributes:
        settings: How many there are.
        like: Nested `tf.TensorSpec`s of what the meta-gradient remembers of
            one group.
        clock: Counts meta-steps.
        seed: See `Group`, `[groups]`.
        index: See `Group`, `[groups]`.
        position: See `Group`, `[groups]`.
        memory: See `Group`, `[groups, ...]` each.
    """

    settings: Kept
    like: Any
    clock: keras.Variable
    seed: keras.Variable
    index: keras.Variable
    position: keras.Variable
    memory: list[keras.Variable]

    @classmethod
    def make(
        cls,
        settings: Kept,
        like: Any,
        add_weight: Callable[..., keras.Variable],
    ) -> KeptRuns:
        """Makes the state of runs that have not begun.

        Args:
            settings: How many there are.
            like: See the class.
            add_weight: That of the model which saves the state.
        """

        def add(name, shape, dtype):
            return add_weight(
                name=name,
                shape=shape,
                dtype=dtype,
                initializer="zeros",
                trainable=False,
            )

        groups = settings.groups
        return cls(
            settings,
            like,
            add("kept_clock", [], "int64"),
            add("kept_seed", [groups], "int64"),
            add("kept_index", [groups], "int64"),
            add("kept_position", [groups], "int64"),
            [
                add(f"kept_{i}", [groups, *spec.shape], stored_type(spec.dtype))
                for i, spec in enumerate(keras.tree.flatten(like))
            ],
        )

    def groups(
        self,
        seed: tf.Tensor,
        index: tf.Tensor,
        windows: tf.Tensor,
        length: int,
    ) -> Group:
        """Returns all groups before a meta-step.

        Groups whose turn it is are at position 0.

        Args:
            seed: Seed of the instances that the meta-step is given.
            index: Number of the first one.
            windows: Windows of a run, int64.
            length: Steps of a window.
        """
        number = tf.range(self.settings.groups, dtype=tf.int64)
        position = _value(self.position)
        offsets = number * windows // self.settings.groups
        turn = tf.equal((_value(self.clock) + offsets) % windows, 0)
        # Fewer steps may be asked for than a run has taken.
        ended = tf.logical_or(turn, position >= windows * length)
        begins = tf.logical_or(ended, tf.equal(position, 0))
        new = index + number * self.settings.group_size
        return Group(
            number,
            tf.where(begins, seed, _value(self.seed)),
            tf.where(begins, new, _value(self.index)),
            tf.where(begins, tf.zeros_like(position), position),
            [
                tf.cast(variable.value, spec.dtype)
                for variable, spec in zip(
                    self.memory, keras.tree.flatten(self.like), strict=True
                )
            ],
        )

    def keep(
        self,
        groups: Group,
        memory: Sequence[tf.Tensor],
        is_sound: tf.Tensor,
        length: int,
    ) -> None:
        """Keeps the runs after a meta-step.

        Args:
            groups: The groups before it.
            memory: What to remember, `[groups, ...]` each.
            is_sound: Which groups go on, `[groups]`. The others begin anew.
            length: Steps of a window.
        """
        position = groups.position + length
        self.clock.assign_add(1)
        self.seed.assign(groups.seed)
        self.index.assign(groups.index)
        self.position.assign(
            tf.where(is_sound, position, tf.zeros_like(position))
        )
        for variable, value in zip(self.memory, memory, strict=True):
            variable.assign(tf.cast(value, variable.dtype))


def take_windows(
    take_group: Callable[[Group], GroupWindow],
    groups: Group,
    kept: KeptRuns,
    theta: Sequence[tf.Tensor],
) -> GroupWindow:
    """Takes the next window of all groups, one group after another.

    Args:
        take_group: Takes the window of a group.
        groups: All groups, see `KeptRuns.groups`.
        kept: Their state.
        theta: Values of the rule's weights.
    """
    return tf.map_fn(
        take_group,
        groups,
        fn_output_signature=GroupWindow(
            keras.tree.flatten(kept.like),
            [tf.TensorSpec(value.shape, value.dtype) for value in theta],
            tf.float32,
            tf.float32,
            tf.float32,
            tf.bool,
        ),
        # They run one after another in any case, and share a report.
        parallel_iterations=1,
    )


def mean_gradients(taken: GroupWindow) -> list[tf.Tensor]:
    """Returns the mean over sound groups of their gradients, or zeros."""
    sound = tf.maximum(_number_of_sound(taken), 1.0)
    return [
        _of_sound(g, taken.is_sound) / tf.cast(sound, g.dtype)
        for g in taken.gradients
    ]


def outcome(taken: GroupWindow) -> Outcome:
    """Returns what the windows of all groups add to the metrics."""
    sound = _number_of_sound(taken)
    weight = _of_sound(taken.weight, taken.is_sound)
    value = _of_sound(taken.value, taken.is_sound)
    final_loss = _of_sound(taken.final_loss, taken.is_sound)
    return Outcome(
        tf.math.divide_no_nan(value, weight),
        tf.math.divide_no_nan(final_loss, sound),
        tf.reduce_all(taken.is_sound),
        weight,
        sound,
    )


def _number_of_sound(taken: GroupWindow) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(taken.is_sound, tf.float32))


def _of_sound(values: tf.Tensor, is_sound: tf.Tensor) -> tf.Tensor:
    """Returns the sum over sound groups, or zeros.

    Args:
        values: `[groups, ...]`.
        is_sound: `[groups]`.
    """
    mask = tf.reshape(is_sound, [-1, *[1] * (values.shape.rank - 1)])
    return tf.reduce_sum(tf.where(mask, values, tf.zeros_like(values)), axis=0)


def _value(variable: keras.Variable) -> tf.Tensor:
    return tf.convert_to_tensor(variable.value)


def stored_type(dtype: tf.DType) -> str:
    """Returns the type of the variable that holds a tensor.

    TensorFlow keeps int32 variables off a GPU, where XLA would not reach
    them.
    """
    return dtype.name if dtype.is_floating else "int64"
