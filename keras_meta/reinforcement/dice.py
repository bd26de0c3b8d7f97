"""The infinitely differentiable Monte Carlo estimator."""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from keras_meta.reinforcement.advantages import Outcomes
from keras_meta.reinforcement.policy_objective import PolicyObjective
from keras_meta.reinforcement.policy_objective import magic_box
from keras_meta.reinforcement.policy_objective import mean_of_sums


@keras.saving.register_keras_serializable("keras_meta")
@dataclasses.dataclass(frozen=True)
class DiCE(PolicyObjective):
    """`sum over t of discount ** t * f(w[t]) * r[t]`, with all derivatives.

    `f(x) = exp(x - sg(x))` is 1 and has the derivatives of the probability
    `exp(x)`. `w[t]` is the sum of `log p(a[s])` over the steps up to `t`. All
    derivatives have the right mean. A baseline `v` adds `(1 - f(log p(a[t])))
    * v[t]`, which is 0, and lowers the variance of the first derivative
    alone. That of the second grows with the length of rollouts: choose it for
    short ones. It takes rewards, so `gae_lambda` does not matter.

    Example:
    >>> from keras_meta.reinforcement import DiCE
    >>> objective = DiCE()

    References:
        - [Foerster et al., 2018](https://arxiv.org/abs/1802.05098).
    """

    def losses(self, log_probs: tf.Tensor, outcomes: Outcomes) -> tf.Tensor:
        """See `PolicyObjective.losses`."""
        so_far = magic_box(tf.cumsum(log_probs, axis=-1))
        terms = so_far * outcomes.rewards
        terms += (1 - magic_box(log_probs)) * outcomes.values
        return -mean_of_sums(outcomes.weights * terms)
