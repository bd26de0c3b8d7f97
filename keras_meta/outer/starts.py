"""Initial weights of many training runs, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching.task_batched import TaskBatched
from keras_meta.inner import initial_weights
from keras_meta.inner.training import Start
from keras_meta.problems.words import instance_words


@dataclasses.dataclass(frozen=True)
class Starts:
    """Where runs begin: at the model's first weights, or at drawn ones.

    Attributes:
        task_batched: The model.
        first: Its first weights.
        initializers: What draws weights, see `initializers_of`, or none.
        seed: Seed of what is drawn.
    """

    task_batched: TaskBatched
    first: Sequence[keras.Variable]
    initializers: Sequence[Any]
    seed: int

    @classmethod
    def make(
        cls,
        task_batched: TaskBatched,
        draws: bool,
        seed: int,
        add_weight: Callable[..., keras.Variable],
    ) -> Starts:
        """Keeps the weights that the model has now.

        Args:
            task_batched: The model.
            draws: Whether runs begin at drawn weights.
            seed: Seed of what is drawn.
            add_weight: That of the model which saves the first weights.
        """
        adapted = task_batched.adapted

        def keep(i, variable):
            kept = add_weight(
                name=f"first_{i}",
                shape=variable.shape,
                dtype=variable.dtype,
                initializer="zeros",
                trainable=False,
            )
            kept.assign(variable)
            return kept

        initializers = (
            initial_weights.initializers_of(task_batched.model, adapted)
            if draws
            else []
        )
        first = [keep(i, v) for i, v in enumerate(adapted)]
        return cls(task_batched, first, initializers, seed)

    def of_model(self) -> Start:
        """Returns the model's first weights, as one run."""
        params = [tf.convert_to_tensor(v)[tf.newaxis] for v in self.first]
        return Start(params, self.task_batched.initial_state())

    def drawn(self, stream: int, number: int | tf.Tensor, count: int) -> Start:
        """Draws the weights of some runs.

        Args:
            stream: Which sequence of runs.
            number: Number of the first of them in the sequence.
            count: How many.
        """
        variables = self.task_batched.adapted
        words = instance_words(
            self.seed,
            stream,
            number,
            rows=count,
            words=initial_weights.WORDS * len(variables),
        )
        runs = [
            initial_weights.draw(variables, self.initializers, row)
            for row in tf.unstack(words)
        ]
        params = [tf.stack(values) for values in zip(*runs, strict=True)]
        return Start(params, self.task_batched.initial_state())
