"""DiCE with advantages."""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from keras_meta.checks import describe
from keras_meta.checks import is_number
from keras_meta.reinforcement.advantages import Outcomes
from keras_meta.reinforcement.discounting import discounted_sums
from keras_meta.reinforcement.policy_objective import PolicyObjective
from keras_meta.reinforcement.policy_objective import magic_box
from keras_meta.reinforcement.policy_objective import mean_of_sums


@keras.saving.register_keras_serializable("keras_meta")
@dataclasses.dataclass(frozen=True)
class LoadedDiCE(PolicyObjective):
    """`sum over t of discount ** t * (f(w[t]) - f(v[t])) * A[t]`.

    `f(x) = exp(x - sg(x))`, `w[t]` is the sum of `decay ** (t - s) *
    log p(a[s])` over the steps `s` up to `t`, and `v[t]` the same without
    step `t`. With `decay=1` and unbiased advantages all derivatives have the
    right mean, and unlike that of `DiCE` the baseline lowers the variance of
    all of them. With `decay=0` it is `LikelihoodRatio`. Values in between
    trade variance for bias.

    Args:
        decay: How much an earlier action counts, from step to step.

    Raises:
        ValueError: If it is not a number from 0 to 1.

    Example:
    >>> from keras_meta.reinforcement import LoadedDiCE
    >>> objective = LoadedDiCE(decay=0.5)

    References:
        - [Farquhar et al., 2019](https://arxiv.org/abs/1909.10549).
    """

    decay: float = 1.0

    def __post_init__(self) -> None:
        if not is_number(self.decay) or not 0 <= self.decay <= 1:
            raise ValueError(
                "`decay` must be a number from 0 to 1. Received: "
                f"decay={describe(self.decay)}"
            )

    def losses(self, log_probs: tf.Tensor, outcomes: Outcomes) -> tf.Tensor:
        """See `PolicyObjective.losses`."""
        with_now = discounted_sums(log_probs, self.decay, backwards=True)
        change = magic_box(with_now) - magic_box(with_now - log_probs)
        return -mean_of_sums(outcomes.weights * outcomes.advantages * change)
