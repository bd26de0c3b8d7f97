"""The interface of what a policy descends."""

from __future__ import annotations

import abc
import dataclasses

import tensorflow as tf

from keras_meta.reinforcement.advantages import Outcomes
from keras_meta.reinforcement.settings import Settings


@dataclasses.dataclass(frozen=True)
class PolicyObjective(Settings, abc.ABC):
    """A function of a policy whose derivatives estimate those of its return.

    Rollouts are drawn from a policy. Their probability depends on its
    weights, but the numbers do not. So a function of the numbers, a
    *surrogate*, must have the right derivatives instead. All have the right
    first derivative: its mean over rollouts is the gradient of the expected
    discounted return. An inner step descends it, and a meta-gradient that goes
    through the step takes the second derivative. There they differ:

    - `ScoreFunction`: wrong.
    - `LikelihoodRatio`: right for rollouts of one step. For longer ones it
      lacks the terms that couple steps, and has little variance.
    - `DiCE`: right, as are all higher ones, with much variance.
    - `LoadedDiCE`: right with `decay=1` and unbiased advantages, with less
      variance than `DiCE`.

    With the right second derivative, the meta-gradient is that of the return
    after the expected update. (E-MAML differentiates the return after the
    sampled one, which adds a term for what the rollouts before the update
    explore.)
    """

    @abc.abstractmethod
    def losses(self, log_probs: tf.Tensor, outcomes: Outcomes) -> tf.Tensor:
        """Returns minus the surrogate, `[tasks]`, the mean over rollouts.

        Args:
            log_probs: Logarithms of the probabilities of the actions, at the
                weights that drew them, `[tasks, rollouts, time]`.
            outcomes: What became of the actions.
        """


def magic_box(x: tf.Tensor) -> tf.Tensor:
    """Returns 1, with the derivatives of `exp(x)` (Foerster et al., 2018)."""
    return tf.exp(x - tf.stop_gradient(x))


def mean_of_sums(x: tf.Tensor) -> tf.Tensor:
    """Sums over time and averages over rollouts, `[tasks]`."""
    return tf.reduce_mean(tf.reduce_sum(x, axis=-1), axis=-1)
