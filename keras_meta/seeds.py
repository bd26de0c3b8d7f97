"""Seeds from seeds."""

from __future__ import annotations

import tensorflow as tf

# Draws the same integers with and without XLA, which others do not.
ALGORITHM = "philox"


def fold_in(seed: tf.Tensor, number: int | tf.Tensor) -> tf.Tensor:
    """Returns a seed of its own for each number, `[2]`."""
    return tf.random.experimental.stateless_fold_in(seed, number, alg=ALGORITHM)


def split(seed: tf.Tensor, count: int = 2) -> list[tf.Tensor]:
    """Returns several seeds, `[2]` each."""
    return tf.unstack(
        tf.random.experimental.stateless_split(seed, count, alg=ALGORITHM)
    )
