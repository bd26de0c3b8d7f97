"""Inner loops that begin at sampled weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_meta.checks import check_int64
from keras_meta.execution import replicas
from keras_meta.execution.undoing import Change
from keras_meta.learners.adaptation.starts import LearnedStart
from keras_meta.meta_gradients._perturbations import draw_noise

# Numbers of the meta-steps follow; this one serves tests.
_HELD = 0


@dataclasses.dataclass(frozen=True)
class SampledStart(LearnedStart):
    """Tasks begin at samples around the learned weights.

    Attributes:
        held: The noise of all tasks outside of training,
            `[samples, *shape]` each.
        clock: Number of the next meta-step. It is int64, as TensorFlow keeps
            int32 variables off a GPU, where XLA would not reach them.
        seed: Seed of the noise.
    """

    settings: str = "sampled"
    draws: bool = True
    held: Sequence[keras.Variable] = ()
    clock: keras.Variable | None = None
    seed: int = 0

    @classmethod
    def make(
        cls,
        variables: Sequence[keras.Variable],
        samples: int,
        seed: int,
        add_weight: Callable[..., keras.Variable],
    ) -> SampledStart:
        """Makes what draws the noise.

        Args:
            variables: What adapts.
            samples: Samples of each task outside of training.
            seed: Seed of the noise.
            add_weight: That of the learner which saves it.
        """
        held = [
            add_weight(
                name=f"noise_{v.name}",
                shape=(samples, *v.shape),
                initializer="zeros",
                dtype=v.dtype,
                trainable=False,
            )
            for v in variables
        ]
        clock = add_weight(
            name="sampled_clock",
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
        )
        start = cls(held=held, clock=clock, seed=seed)
        start.redraw(seed)
        return start

    def changes(self) -> list[Change]:
        """Returns what makes the next meta-step draw other noise."""
        now = tf.convert_to_tensor(self.clock)
        return [Change(self.clock, now, now + 1)]

    def redraw(self, seed: int) -> None:
        """Draws the noise that tests use.

        Args:
            seed: Seed of the draw.
        """
        check_int64(seed=seed)
        values = [tf.convert_to_tensor(v[0]) for v in self.held]
        samples = self.held[0].shape[0]
        seeds = tf.constant([seed, _HELD], tf.int64)
        drawn = draw_noise(values, seeds, samples, "normal")
        for variable, value in zip(self.held, drawn, strict=True):
            variable.assign(value)

    def of_tests(self) -> list[tf.Tensor]:
        """Returns the noise of tests, `[samples, 1, *shape]` each."""
        return [tf.convert_to_tensor(v)[:, tf.newaxis] for v in self.held]

    def of_training(
        self, samples: int, tasks: int | tf.Tensor
    ) -> list[tf.Tensor]:
        """Draws the noise of a meta-step, `[samples, tasks, *shape]` each.

        Args:
            samples: Samples of each task.
            tasks: Number of tasks on this device.
        """
        # Each replica draws for all tasks and takes its own, so that tasks
        # get what they would get on one device.
        first, total = replicas.place_in_batch(tasks)
        now = tf.convert_to_tensor(self.clock)
        seed = tf.stack([tf.constant(self.seed, tf.int64), now + _HELD + 1])
        values = [tf.convert_to_tensor(v[0]) for v in self.held]
        drawn = draw_noise(values, seed, samples * total, "normal")
        return [
            tf.reshape(x, [samples, total, *value.shape])[
                :, first : first + tasks
            ]
            for x, value in zip(drawn, values, strict=True)
        ]
