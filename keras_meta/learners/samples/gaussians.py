"""Gaussian distributions of weights, with a standard deviation for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf


class Gaussian(NamedTuple):
    """Independent Gaussian weights of each task.

    Attributes:
        means: `[tasks, *shape]` each.
        log_scales: Logarithms of the standard deviations, `[*shape]` each,
            the same for all tasks.
    """

    means: Sequence[tf.Tensor]
    log_scales: Sequence[tf.Tensor]

    def sample(self, noise: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns samples, `[samples * tasks, *shape]` each.

        Args:
            noise: Standard normal numbers, `[samples, tasks, *shape]` each,
                or `[samples, 1, *shape]` for the same in all tasks.
        """
        sampled = []
        for mean, log_scale, numbers in zip(*self, noise, strict=True):
            values = mean + tf.exp(log_scale) * numbers
            shape = tf.concat([[-1], tf.shape(mean)[1:]], axis=0)
            values = tf.reshape(values, shape)
            values.set_shape([None, *mean.shape[1:]])
            sampled.append(values)
        return sampled

    def divergence(self, other: Gaussian) -> tf.Tensor:
        """Returns the Kullback-Leibler divergence from another, `[tasks]`.

        It is the sum over weights of

            log(s / t) + (t^2 + (m - n)^2) / (2 s^2) - 1 / 2

        where `n` and `s` are the other's mean and standard deviation, and
        `m` and `t` are this one's.

        Args:
            other: The distribution to compare with.
        """
        parts = []
        for mean, log_scale, to, log_to in zip(*self, *other, strict=True):
            ratio = log_scale - log_to
            gap = (mean - to) * tf.exp(-log_to)
            terms = (tf.exp(2 * ratio) + tf.square(gap) - 1) / 2 - ratio
            parts.append(tf.reduce_sum(terms, list(range(1, terms.shape.rank))))
        return tf.add_n(parts)
