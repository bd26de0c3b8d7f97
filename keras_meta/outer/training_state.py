"""Where training begins and where it is, in Keras variables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching.fallback import is_seed
from keras_meta.batching.task_batched import TaskBatched
from keras_meta.inner import initial_weights
from keras_meta.inner.solver import Carry
from keras_meta.inner.training import Start
from keras_meta.outer.kept_runs import stored_type
from keras_meta.problems.words import instance_words
from keras_meta.update_rules.update_rule import UpdateRule

STARTS = ("kept", "initial", "drawn")
_WEIGHT_STREAM = 107


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """The state of training. The model's variables are part of it.

    Attributes:
        start: Where a run begins; see `HyperparameterLearner`.
        windows: Windows of a run, or `None` if it goes on for good.
        task_batched: The model.
        initializers: What draws its weights, see `initializers_of`.
        seed: Seed of what is drawn.
        initial: The model's first weights and other variables.
        rule_like: The update rule's state, for its structure.
        rule_state: The update rule's state, if runs have several windows.
        position: Steps of the run so far.
        clock: Number of the next window.
    """

    start: str
    windows: int | None
    task_batched: TaskBatched
    initializers: Sequence[Any]
    seed: int
    initial: Sequence[keras.Variable]
    rule_like: Any
    rule_state: Sequence[keras.Variable]
    position: keras.Variable
    clock: keras.Variable

    @classmethod
    def make(
        cls,
        start: str,
        windows: int | None,
        task_batched: TaskBatched,
        rule: UpdateRule,
        seed: int,
        add_weight: Callable[..., keras.Variable],
    ) -> TrainingState:
        """Makes the state of training that has not begun.

        Args:
            start: See the class.
            windows: See the class.
            task_batched: See the class.
            rule: The update rule.
            seed: See the class.
            add_weight: That of the model which saves the state.
        """

        def add(name, value):
            value = tf.convert_to_tensor(value)
            variable = add_weight(
                name=name,
                shape=value.shape,
                dtype=stored_type(value.dtype),
                initializer="zeros",
                trainable=False,
            )
            variable.assign(value)
            return variable

        model = [*task_batched.adapted, *task_batched.state_variables]
        params = [v.value[tf.newaxis] for v in task_batched.adapted]
        rule_like = rule.init_state(params)
        leaves = [] if windows == 1 else keras.tree.flatten(rule_like)
        return cls(
            start,
            windows,
            task_batched,
            initial_weights.initializers_of(
                task_batched.model, task_batched.adapted
            )
            if start == "drawn"
            else [],
            seed,
            [add(f"initial_{i}", v.value) for i, v in enumerate(model)],
            rule_like,
            [add(f"rule_state_{i}", x) for i, x in enumerate(leaves)],
            add("position", tf.zeros([], tf.int64)),
            add("clock", tf.zeros([], tf.int64)),
        )

    @property
    def variables(self) -> list[keras.Variable]:
        """All variables that a window changes."""
        batched = self.task_batched
        return [
            *batched.adapted,
            *batched.state_variables,
            *self.rule_state,
            self.position,
            self.clock,
        ]

    @property
    def first_params(self) -> list[tf.Tensor]:
        """The model's first weights, `[1, *shape]` each."""
        count = len(self.task_batched.adapted)
        return [v.value[tf.newaxis] for v in self.initial[:count]]

    @property
    def first(self) -> tf.Tensor:
        """Number of the first step of a window, int32."""
        return tf.cast(self.position.value, tf.int32)

    @property
    def carry(self) -> Carry:
        """What a run carries where it is."""
        batched = self.task_batched
        return Carry(
            [v.value[tf.newaxis] for v in batched.adapted],
            self.rule_like,
            batched.initial_state(),
        )

    def window_start(self, number: tf.Tensor) -> Start:
        """Returns the weights and the state before a window.

        Args:
            number: Number of the window.
        """
        if self.windows == 1:
            return self._run_start(number)
        if self.start == "kept":
            return self._present()
        params, state = tf.cond(
            tf.equal(self.position.value, 0),
            lambda: self._run_start(number),
            self._present,
        )
        return Start(params, state)

    def _present(self) -> Start:
        """Returns the weights and the state that the model has."""
        batched = self.task_batched
        params = [v.value[tf.newaxis] for v in batched.adapted]
        state = map(tf.convert_to_tensor, batched.initial_state())
        return Start(params, list(state))

    def _run_start(self, number: tf.Tensor) -> Start:
        """Returns the weights and the state before a run."""
        batched = self.task_batched
        # Dropout goes on with new masks.
        state = [
            tf.convert_to_tensor((v if is_seed(v) else first).value)
            for v, first in zip(
                batched.state_variables,
                self.initial[len(batched.adapted) :],
                strict=True,
            )
        ]
        if self.start == "initial":
            return Start(self.first_params, state)
        words = instance_words(
            self.seed,
            _WEIGHT_STREAM,
            number,
            rows=1,
            words=initial_weights.WORDS * len(batched.adapted),
        )
        drawn = initial_weights.draw(
            batched.adapted, self.initializers, words[0]
        )
        return Start([value[tf.newaxis] for value in drawn], state)

    def rule_start(self, fresh: Callable[[], Any]) -> Any:
        """Returns the update rule's state before a window.

        Args:
            fresh: Returns that before the first step of a run.
        """
        if self.windows == 1:
            return fresh()
        kept = [
            tf.cast(variable.value, like.dtype)
            for variable, like in zip(
                self.rule_state, keras.tree.flatten(self.rule_like), strict=True
            )
        ]
        # A learned rule may learn its first state.
        leaves = tf.cond(
            tf.equal(self.position.value, 0),
            lambda: keras.tree.flatten(fresh()),
            lambda: kept,
        )
        return keras.tree.pack_sequence_as(self.rule_like, leaves)

    def keep(self, end: Carry, steps: int, number: tf.Tensor) -> None:
        """Keeps what a window ended with.

        Args:
            end: The carry after its last step.
            steps: How many steps it had.
            number: Number of the window.
        """
        batched = self.task_batched
        # In a graph, what begins to read data reads the clock at any time
        # before a window is there, so it must not change earlier.
        self.clock.assign(number + 1)
        for variable, value in zip(batched.adapted, end.params, strict=True):
            variable.assign(value[0])
        for variable, value in zip(
            batched.state_variables, end.state, strict=True
        ):
            variable.assign(value)
        if self.windows == 1:
            return
        position = self.position.value + steps
        if self.windows is not None:
            position %= self.windows * steps
        self.position.assign(position)
        leaves = keras.tree.flatten(end.rule_state)
        for variable, value in zip(self.rule_state, leaves, strict=True):
            variable.assign(tf.cast(value, variable.dtype))

    def restart(self) -> None:
        """Begins a new run, at the model's first weights."""
        self.position.assign(0)
        batched = self.task_batched
        model = [*batched.adapted, *batched.state_variables]
        for variable, first in zip(model, self.initial, strict=True):
            if not is_seed(variable):
                variable.assign(first.value)
