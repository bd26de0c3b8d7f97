"""Inner loops that begin at one of several learned initializations."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.checks import describe
from keras_meta.inner import initial_weights
from keras_meta.learners.adaptation.starts import LearnedStart
from keras_meta.learners.adaptation.starts import known_initializers
from keras_meta.problems.words import instance_words


@dataclasses.dataclass(frozen=True)
class Particles(LearnedStart):
    """Several initializations, which are learned in place of the model's.

    Attributes:
        variables: The model's weights that adapt. They are not learned.
        values: The initializations, `[particles, *shape]` for each of
            `variables`.
    """

    settings: str = "particles"
    values: Sequence[keras.Variable] = ()

    @classmethod
    def make(
        cls,
        model: keras.Model,
        variables: Sequence[keras.Variable],
        particles: int,
        seed: int,
        add_weight: Callable[..., keras.Variable],
    ) -> Particles:
        """Makes the initializations. The first is the model's own.

        Args:
            model: The model. Its initializers draw the others.
            variables: Those of its variables that adapt.
            particles: How many initializations.
            seed: Seed of the draws.
            add_weight: That of the learner which learns them.

        Raises:
            ValueError: If a variable has no initializer, or a regularizer.
        """
        initializers = known_initializers(model, variables)
        regularized = [v.path for v in variables if v.regularizer is not None]
        if regularized:
            raise ValueError(
                "Regularizers act on the model's weights, in whose place "
                "several initializations are learned. Received: a model with "
                f"regularizers of {regularized}, which adapt. Remove them."
            )
        values = [
            add_weight(
                name=f"particles_{v.name}",
                shape=(particles, *v.shape),
                dtype=v.dtype,
                initializer="zeros",
            )
            for v in variables
        ]
        count = initial_weights.WORDS * len(variables)
        words = instance_words(seed, 0, 0, rows=particles, words=count)
        rows = [[tf.convert_to_tensor(v) for v in variables]] + [
            initial_weights.draw(variables, initializers, words[i])
            for i in range(1, particles)
        ]
        for value, drawn in zip(values, zip(*rows, strict=True), strict=True):
            value.assign(tf.stack(drawn))
        return cls(variables=list(variables), values=values)

    def of_tasks(self, tasks: int | tf.Tensor) -> list[tf.Tensor]:
        """Returns where tasks begin, `[particles * tasks, *shape]` each.

        Args:
            tasks: Number of tasks.
        """
        starts = []
        for variable in self.values:
            value = tf.convert_to_tensor(variable)[:, tf.newaxis]
            shape = [value.shape[0], tasks, *value.shape[2:]]
            starts.append(task_axis.merge(tf.broadcast_to(value, shape)))
        return starts

    def redraw(self, seed: int) -> None:
        """Refuses to overwrite what is learned."""
        raise ValueError(
            "`redraw` would overwrite the learned initializations. Received: "
            f"seed={describe(seed)}. Make a new learner with this seed."
        )
