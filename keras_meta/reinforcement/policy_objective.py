"""The interface of what a policy descends."""

from __future__ import annotations

import abc
import dataclasses

import tensorflow as tf

from keras_meta.reinforcement.advantages import Outcomes
from keras_meta.reinforcement.settings import Settings


@dataclasses.dataclass(frozen=True)
class PolicyObjective(Settings, abc.ABC):
    """A function of rollouts with the derivatives of the expected return.

    How likely rollouts are depends on the policy's weights, but the numbers
    in them are constants. So what is differentiated is a *surrogate*. In the
    mean over rollouts, the first derivative of every surrogate is that of the
    expected discounted return. An inner step follows it, and a meta-gradient
    that goes through the step takes the second derivative, where they differ:

    - `ScoreFunction`: wrong.
    - `LikelihoodRatio`: right for rollouts of one step. For longer ones it
      lacks the terms that couple steps, and has little variance.
    - `DiCE`: right, as are all higher ones, with much variance.
    - `LoadedDiCE`: right with `decay=1` and unbiased advantages, with less
      variance than `DiCE`.

    With the right second derivative, the meta-gradient aims at the return
    after the expected update. E-MAML aims at the return after the sampled
    one: it differentiates the update as `ScoreFunction` does, and adds a term
    that rewards rollouts before the update for what they explore. There is no
    such term here, so `ScoreFunction` alone is neither of the two.

    References:
        - [Rothfuss et al., 2019](https://arxiv.org/abs/1810.06784), for the
          two aims.
        - [Stadie et al., 2018](https://arxiv.org/abs/1803.01118), for E-MAML.
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
