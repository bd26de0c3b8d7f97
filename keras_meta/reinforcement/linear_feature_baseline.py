"""A baseline that is linear in features of the observations."""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from keras_meta.checks import check_positive_number
from keras_meta.reinforcement.rollouts import Rollouts
from keras_meta.reinforcement.settings import Settings


@keras.saving.register_keras_serializable("keras_meta")
@dataclasses.dataclass(frozen=True)
class LinearFeatureBaseline(Settings):
    """Predicts returns from observations and time by ridge regression.

    The features are the observation `o` (clipped to [-10, 10]), its squares,
    `t / 100`, its square and its cube, and 1. Each task has coefficients of
    its own. They are fitted to the rollouts that they are then used for, so
    the baseline depends slightly on the actions. With few rollouts that
    biases the gradient.

    Args:
        regularization: Strength of the ridge.

    Raises:
        ValueError: If it is not a positive number.

    References:
        - [Duan et al., 2016](https://arxiv.org/abs/1604.06778).
    """

    regularization: float = 1e-5

    def __post_init__(self) -> None:
        check_positive_number(regularization=self.regularization)

    def fit(self, rollouts: Rollouts, returns: tf.Tensor) -> tf.Tensor:
        """Returns predictions of returns, `[tasks, rollouts, time]`.

        Args:
            rollouts: The rollouts.
            returns: Their returns from each step on, `[tasks, rollouts,
                time]`.
        """
        # The last steps of similar rollouts make nearly singular matrices.
        features = self._features(rollouts)
        weights = tf.cast(rollouts.running, tf.float64)[..., tf.newaxis]
        known = features * weights
        gram = tf.einsum("kntf,kntg->kfg", known, known)
        target = tf.einsum("kntf,knt->kf", known, tf.cast(returns, tf.float64))
        ridge = self.regularization * tf.eye(gram.shape[-1], dtype=tf.float64)
        chol = tf.linalg.cholesky(gram + ridge)
        solution = tf.linalg.cholesky_solve(chol, target[..., tf.newaxis])
        values = tf.einsum("kntf,kf->knt", features, solution[..., 0])
        return tf.cast(values, returns.dtype)

    def _features(self, rollouts: Rollouts) -> tf.Tensor:
        """Returns `[tasks, rollouts, time, features]`, float64."""
        seen = tf.cast(rollouts.observations, tf.float64)
        lead = tf.shape(rollouts.rewards)
        size = seen.shape[3:].num_elements()
        seen = tf.reshape(seen, tf.concat([lead, [size]], 0))
        seen = tf.clip_by_value(seen, -10.0, 10.0)
        steps = rollouts.rewards.shape[-1]
        time = tf.range(steps, dtype=tf.float64)[:, tf.newaxis] / 100
        time = tf.concat([time**k for k in (1, 2, 3, 0)], -1)
        time = tf.broadcast_to(time, tf.concat([lead, [4]], 0))
        return tf.concat([seen, tf.square(seen), time], axis=-1)
