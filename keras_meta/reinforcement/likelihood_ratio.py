"""The low-variance curvature estimator."""

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
class LikelihoodRatio(PolicyObjective):
    """`sum over t of discount ** t * p(a[t]) / sg(p(a[t])) * A[t]` (LVC).

    `sg` takes a value as a constant. Its second derivative is that of the
    return where rollouts have one step. Of longer ones it leaves out the
    terms that couple the actions of different steps: it is biased, and has
    less variance. A good default.

    Example:
    >>> from keras_meta.reinforcement import LikelihoodRatio
    >>> objective = LikelihoodRatio()

    References:
        - [Rothfuss et al., 2019](https://arxiv.org/abs/1810.06784), "low
          variance curvature".
    """

    def losses(self, log_probs: tf.Tensor, outcomes: Outcomes) -> tf.Tensor:
        """See `PolicyObjective.losses`."""
        ratios = magic_box(log_probs)
        return -mean_of_sums(outcomes.weights * outcomes.advantages * ratios)
