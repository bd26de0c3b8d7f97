"""The surrogate of plain policy gradients."""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from keras_meta.reinforcement.advantages import Outcomes
from keras_meta.reinforcement.policy_objective import PolicyObjective
from keras_meta.reinforcement.policy_objective import mean_of_sums


@keras.saving.register_keras_serializable("keras_meta")
@dataclasses.dataclass(frozen=True)
class ScoreFunction(PolicyObjective):
    """`sum over t of discount ** t * log p(a[t]) * A[t]`.

    Its second derivative is wrong: it lacks `A * grad log p * grad log p^T`,
    by which actions become likelier in return. For one action that is drawn
    from `N(theta, sigma^2)`, with the reward `-(a - g)^2`, it has the mean
    `+((theta - g)^2 + sigma^2) / sigma^2` instead of -2, and 0 with the best
    constant baseline. Published implementations of MAML use it. Choose it to
    compare with them, and with `meta_gradient="first_order"`, which takes no
    second derivative. Otherwise, choose `LikelihoodRatio`.

    Example:
    >>> from keras_meta.reinforcement import ScoreFunction
    >>> objective = ScoreFunction()

    References:
        - [Finn et al., 2017](https://arxiv.org/abs/1703.03400), section 4.
        - [Foerster et al., 2018](https://arxiv.org/abs/1802.05098), for what
          is wrong with it.
    """

    def losses(self, log_probs: tf.Tensor, outcomes: Outcomes) -> tf.Tensor:
        """See `PolicyObjective.losses`."""
        return -mean_of_sums(outcomes.weights * outcomes.advantages * log_probs)
