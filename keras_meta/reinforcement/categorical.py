"""Actions with a number."""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from keras_meta.reinforcement.distribution import Distribution
from keras_meta.seeds import ALGORITHM


@keras.saving.register_keras_serializable("keras_meta")
@dataclasses.dataclass(frozen=True)
class Categorical(Distribution):
    """Actions that are numbers from 0 to one less than their count.

    The policy's outputs are logits, `[..., actions]`.

    Example:
    >>> import tensorflow as tf
    >>> logits = tf.constant([[0.0, 0.0]])
    >>> Categorical().log_prob(logits, tf.constant([1])).numpy().round(3)
    array([-0.693], dtype=float32)
    """

    def sample(self, outputs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws actions, int32, `[...]`; see `Distribution.sample`."""
        # The largest of logits with Gumbel noise, which XLA can draw.
        tiny = outputs.dtype.as_numpy_dtype(1e-30)
        uniform = tf.random.stateless_uniform(
            tf.shape(outputs), seed, dtype=outputs.dtype, alg=ALGORITHM
        )
        gumbel = -tf.math.log(-tf.math.log(tf.maximum(uniform, tiny)))
        return tf.argmax(outputs + gumbel, axis=-1, output_type=tf.int32)

    def log_prob(self, outputs: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
        """Returns logarithms of probabilities; see `Distribution.log_prob`."""
        chosen = tf.one_hot(actions, outputs.shape[-1], dtype=outputs.dtype)
        return tf.reduce_sum(tf.nn.log_softmax(outputs) * chosen, axis=-1)

    def mode(self, outputs: tf.Tensor) -> tf.Tensor:
        """Returns the likeliest actions; see `Distribution.mode`."""
        return tf.argmax(outputs, axis=-1, output_type=tf.int32)
