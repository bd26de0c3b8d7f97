"""What the actions of rollouts were worth."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_meta.checks import check_bool
from keras_meta.checks import describe
from keras_meta.checks import is_number
from keras_meta.reinforcement.discounting import discounted_sums
from keras_meta.reinforcement.linear_feature_baseline import (
    LinearFeatureBaseline,
)
from keras_meta.reinforcement.rollouts import Rollouts
from keras_meta.reinforcement.settings import Settings


class Outcomes(NamedTuple):
    """What became of the actions of rollouts, `[tasks, rollouts, time]` each.

    None of it has a derivative.

    Attributes:
        rewards: Rewards; 0 after the end.
        values: The baseline's predictions of returns.
        advantages: How much better the action was than the baseline.
        weights: What a step counts, `discount ** t`; 0 after the end.
    """

    rewards: tf.Tensor
    values: tf.Tensor
    advantages: tf.Tensor
    weights: tf.Tensor


@keras.saving.register_keras_serializable("keras_meta")
@dataclasses.dataclass(frozen=True)
class Advantages(Settings):
    """Estimates advantages, by generalized advantage estimation.

    With `d[t] = r[t] + discount * v[t + 1] - v[t]`, where `v` is 0 after the
    end, the advantage is `sum over s >= t of (discount * gae_lambda) **
    (s - t) * d[s]`. With `gae_lambda=1`, it is the discounted return minus
    the baseline.

    Args:
        discount: The factor of one step.
        gae_lambda: Trades variance (1) for the bias of the baseline (0).
        baseline: What predicts returns, or `None` for 0.
        normalize: Whether to center the advantages of a task, to divide them
            by their standard deviation, and by the horizon. Then one rate of
            the inner loop suits rewards of any scale and rollouts of any
            length: a surrogate is a mean over steps, not a sum. Without it,
            the gradient is that of the return itself.

    Raises:
        ValueError: If an argument is out of range.

    Example:
    >>> plain = Advantages(discount=0.9, baseline=None, normalize=False)

    References:
        - [Schulman et al., 2016](https://arxiv.org/abs/1506.02438),
          equation 16.
    """

    discount: float = 0.99
    gae_lambda: float = 1.0
    baseline: LinearFeatureBaseline | None = LinearFeatureBaseline()
    normalize: bool = True

    def __post_init__(self) -> None:
        for name in ("discount", "gae_lambda"):
            value = getattr(self, name)
            if not is_number(value) or not 0 <= value <= 1:
                raise ValueError(
                    f"`{name}` must be a number from 0 to 1. Received: "
                    f"{name}={describe(value)}"
                )
        check_bool(normalize=self.normalize)
        baseline = self.baseline
        if not isinstance(baseline, (LinearFeatureBaseline, type(None))):
            raise TypeError(
                "`baseline` must be a LinearFeatureBaseline or None. Received: "
                f"baseline={describe(baseline)}"
            )

    def estimate(self, rollouts: Rollouts) -> Outcomes:
        """Returns what became of the actions of rollouts."""
        rewards = rollouts.rewards
        running = tf.cast(rollouts.running, rewards.dtype)
        values = tf.zeros_like(rewards)
        if self.baseline is not None:
            returns = discounted_sums(rewards, self.discount)
            values = running * self.baseline.fit(rollouts, returns)
        following = tf.pad(values[..., 1:], [[0, 0], [0, 0], [0, 1]])
        gains = rewards + self.discount * following - values
        advantages = discounted_sums(gains, self.discount * self.gae_lambda)
        time = tf.range(rewards.shape[-1], dtype=rewards.dtype)
        outcomes = Outcomes(
            rewards, values, advantages, running * self.discount**time
        )
        if self.normalize:
            outcomes = _normalized(outcomes, running)
        return Outcomes(*map(tf.stop_gradient, outcomes))


def _normalized(outcomes: Outcomes, running: tf.Tensor) -> Outcomes:
    """Centers and scales what became of each task's actions.

    Args:
        outcomes: What became of them.
        running: 1 where a step counts, else 0.
    """

    def mean(x):
        total = tf.reduce_sum(running * x, [1, 2], keepdims=True)
        return total / tf.reduce_sum(running, [1, 2], keepdims=True)

    center = mean(outcomes.advantages)
    gaps = outcomes.advantages - center
    scale = tf.sqrt(mean(tf.square(gaps))) + 1e-8
    scale *= tf.cast(running.shape[-1], scale.dtype)
    # A constant that is taken from advantages is one that predictions of
    # returns are too small by.
    return Outcomes(
        outcomes.rewards / scale,
        (outcomes.values + center) / scale,
        gaps / scale,
        outcomes.weights,
    )
