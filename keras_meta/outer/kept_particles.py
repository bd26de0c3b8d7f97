"""Perturbed runs of training that go on from window to window."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.inner.solver import Carry
from keras_meta.meta_gradients.evolution import Evolution
from keras_meta.meta_gradients.evolution import Particles
from keras_meta.meta_gradients.objective import Estimate
from keras_meta.outer.kept_runs import stored_type
from keras_meta.outer.training_objective import TrainingObjective


@dataclasses.dataclass(frozen=True)
class KeptParticles:
    """The particles of evolution strategies, in Keras variables.

    Attributes:
        strategy: What compares them.
        like: `tf.TensorSpec`s of what there is of them.
        memory: Their values, in the order of `like`.
    """

    strategy: Evolution
    like: Particles
    memory: Sequence[keras.Variable]

    @classmethod
    def make(
        cls,
        strategy: Evolution,
        theta: Sequence[keras.Variable],
        carry: Carry,
        add_weight: Callable[..., keras.Variable],
    ) -> KeptParticles:
        """Makes the state of particles whose runs have not begun.

        Args:
            strategy: See the class.
            theta: What is learned.
            carry: What a run carries.
            add_weight: That of the model which saves the state.
        """
        rows = 2 * strategy.particles
        values = [tf.convert_to_tensor(v.value) for v in theta]
        noise = strategy.noise(values, tf.zeros([2], tf.int64))
        like = Particles(
            keras.tree.map_structure(
                lambda x: tf.TensorSpec([rows, *x.shape], x.dtype), carry
            ),
            [
                tf.TensorSpec(x.shape, x.dtype)
                for x in strategy.first_memory(noise)
            ],
        )
        memory = [
            add_weight(
                name=f"particles_{i}",
                shape=spec.shape,
                dtype=stored_type(spec.dtype),
                initializer="zeros",
                trainable=False,
            )
            for i, spec in enumerate(keras.tree.flatten(like))
        ]
        return cls(strategy, like, memory)

    def estimate(
        self, objective: TrainingObjective
    ) -> tuple[Estimate, Particles]:
        """Compares the particles in a window, and trains without noise.

        Where the window is the first of a run, particles begin anew.

        Args:
            objective: The window.

        Returns:
            What the window says, with the loss and the predictions without
            noise, and the particles after it.
        """
        strategy = self.strategy
        loss, trained = objective.outer_loss()
        theta = [tf.convert_to_tensor(v.value) for v in objective.variables]
        noise = strategy.noise(theta, objective.seed(strategy.seed))
        row = keras.tree.map_structure(
            lambda spec: tf.TensorSpec(spec.shape[1:], spec.dtype),
            self.like.carry,
        )

        def start(theta):
            return tf.map_fn(objective.begin, theta, fn_output_signature=row)

        def run(theta, carry, first, steps):
            return tf.map_fn(
                lambda one: objective.window(*one),
                (theta, carry),
                fn_output_signature=(objective.dtype, row),
            )

        particles = tf.cond(
            tf.equal(objective.first, 0),
            lambda: keras.tree.flatten(strategy.begin(start, theta, noise)),
            self._values,
        )
        window = strategy.window(
            run,
            theta,
            keras.tree.pack_sequence_as(self.like, particles),
            noise,
            objective.first,
            objective.steps,
        )
        gradients = list(map(objective.scaled, window.gradients))
        return Estimate(gradients, loss, trained), window.particles

    def keep(self, particles: Particles) -> None:
        """Keeps the particles after a window."""
        values = keras.tree.flatten(particles)
        for variable, value in zip(self.memory, values, strict=True):
            variable.assign(tf.cast(value, variable.dtype))

    def _values(self) -> list[Any]:
        return [
            tf.cast(variable.value, spec.dtype)
            for variable, spec in zip(
                self.memory, keras.tree.flatten(self.like), strict=True
            )
        ]
