"""Orders in which training steps read support sets."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.checks import check_int64
from keras_meta.execution import replicas
from keras_meta.execution.undoing import Change
from keras_meta.learners.tasks.episode import Episode

# Squares of smaller numbers fit into 64 bits.
_PRIME = 2**31 - 1


class SupportOrders:
    """Draws orders of support sets, others in each training step.

    Args:
        learner: The learner. A weight of it counts the draws, so that a
            loaded learner continues them.
        seed: Seed of the draws.
    """

    def __init__(self, learner: keras.Model, seed: int):
        check_int64(seed=seed)
        self.seed = int(seed)
        # TensorFlow keeps int32 variables off a GPU, where XLA would not
        # reach them.
        self._draws = learner.add_weight(
            name="draws",
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
        )

    def draw(self, episode: Episode, passes: int = 1) -> tf.Tensor:
        """Returns orders of the support sets, `[tasks, passes * n]`.

        Each pass has every example once. Each replica draws for all tasks and
        takes its own, so that tasks see what they would see on one device.

        Args:
            episode: The tasks.
            passes: Number of passes over a support set.
        """
        examples = task_axis.size(episode.support_y, 1)
        first, tasks = replicas.place_in_batch(episode.tasks)
        draws = tf.convert_to_tensor(self._draws)
        numbers = tf.random.stateless_uniform(
            [tasks, passes, examples],
            [tf.cast(self.seed, draws.dtype), draws + 1],
        )
        order = tf.argsort(numbers[first : first + episode.tasks])
        return tf.reshape(order, [episode.tasks, -1])

    def of_evaluation(self, examples: int | tf.Tensor) -> tf.Tensor:
        """Returns the order of all support sets of a size, `[n]`.

        Args:
            examples: The size, `n`.
        """
        # Squares modulo a prime. Steps with random operations are not split
        # into blocks of tasks.
        x = tf.range(1, examples + 1, dtype=tf.int64) + self.seed % _PRIME
        for _ in range(2):
            x = 48_271 * x % _PRIME
            x = x * x % _PRIME
        return tf.argsort(tf.cast(x, tf.float64))

    def change(self) -> Change:
        """Returns the change that a training step makes: one more draw."""
        draws = tf.convert_to_tensor(self._draws)
        return Change(self._draws, draws, draws + 1)
