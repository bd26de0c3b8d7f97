"""Runs that go on from one meta-step to the next."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_meta.checks import check_positive


@keras.saving.register_keras_serializable("keras_meta")
@dataclasses.dataclass(frozen=True)
class Kept:
    """Keeps runs from one meta-step of an `OptimizerLearner` to the next.

    A meta-step takes one window of every run, and the next meta-step goes on
    where it ended. So the gradient of a meta-step is the mean over runs at
    different positions, early and late ones.

    The runs are kept in groups. All runs of a group are at the same position,
    and groups are staggered: with `W` windows a run, a group begins anew every
    `W` meta-steps, and group `g` does so `g * W // groups` meta-steps before
    group 0. First runs are shorter for that reason. A group that begins anew
    takes its part of the batch that the meta-step is given; the rest of the
    batch is not used. If `steps` of the learner changes, turns follow the new
    number, and a group that has taken as many steps begins anew.

    The runs are weights of the learner, so they are saved with it. They take
    the memory of `instances` times the parameters and the state of the rule,
    times two for each pair of particles of an evolution strategy. A meta-step
    takes the groups one after another: few large groups are faster, many
    small ones mix more positions.

    Args:
        instances: Number of runs, the size of each batch in `fit`.
        groups: Number of groups; it divides `instances`, and is at most the
            number of windows of a run.

    Raises:
        ValueError: If an argument is not positive, or `groups` does not
            divide `instances`.

    Example:
    >>> import keras_meta
    >>> learner = keras_meta.OptimizerLearner(
    ...     keras_meta.CoordinatewiseLSTM([4]),
    ...     keras_meta.problems.Quadratic(3),
    ...     steps=8,
    ...     meta_gradient=keras_meta.PersistentES(2, sigma=0.1, length=2),
    ...     start=keras_meta.Kept(6, groups=3),
    ... )
    >>> learner.compile("adam")
    >>> batches = keras_meta.problems.batches(6, num_batches=5)

    Then `learner.fit(batches)` takes five windows of each run.

    References:
        - [Vicol et al., 2021](https://arxiv.org/abs/2112.13835), section 4.
        - [Li et al., 2023](https://arxiv.org/abs/2304.12180), section 3, for
          runs at different positions.
    """

    instances: int
    groups: int = 4

    def __post_init__(self) -> None:
        check_positive(instances=self.instances, groups=self.groups)
        if self.instances % self.groups:
            raise ValueError(
                "`groups` must divide `instances`. Received: "
                f"instances={self.instances}, groups={self.groups}"
            )

    @property
    def group_size(self) -> int:
        """Runs of a group."""
        return self.instances // self.groups

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Kept:
        """Makes the settings from `get_config`'s dict."""
        return cls(**config)


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


def of_sound_groups(values: tf.Tensor, is_sound: tf.Tensor) -> tf.Tensor:
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
