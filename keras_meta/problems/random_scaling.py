"""Problems whose parameters have random scales."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from keras_meta.episodes.random_bits import floats_between
from keras_meta.problems.problem import Problem
from keras_meta.problems.words import instance_words

_STREAM = 102


class RandomScaling(Problem):
    """The same problems, each coordinate in a unit of its own.

    With a random `c` for each coordinate of each instance the function
    `f(c * theta)` is optimized, from the first parameters divided by `c`. An
    update rule trained so cannot count on gradients of one size.

    Args:
        problem: The family of problems.
        low: Smallest logarithm of a scale.
        high: Largest logarithm of a scale.

    Raises:
        ValueError: If the range is not one of finite numbers in order.
        TypeError: If `problem` is none.

    Example:
    >>> from keras_meta.problems import Quadratic
    >>> problem = RandomScaling(Quadratic(3))
    >>> params, data = problem.draw(seed=0, index=0, instances=2)
    >>> problem.losses(params, data, step=0).shape
    TensorShape([2])

    References:
        - [Lv et al., 2017](https://arxiv.org/abs/1703.03633), section 3.1.
    """

    def __init__(self, problem: Problem, low: float = -3.0, high: float = 3.0):
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise ValueError(
                "`low` and `high` must be finite numbers in order. Received: "
                f"low={low!r}, high={high!r}"
            )
        if not isinstance(problem, Problem):
            raise TypeError(
                "`problem` must be a keras_meta.problems.Problem. Received: "
                f"problem={problem!r}"
            )
        self.problem = problem
        self.low = low
        self.high = high

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables of the family that is scaled."""
        return self.problem.variables

    def draw(self, seed, index, instances):
        """Draws instances and their scales; see `Problem.draw`."""
        params, data = self.problem.draw(seed, index, instances)
        sizes = [p.shape[1:].num_elements() for p in params]
        words = instance_words(
            seed, _STREAM, index, rows=instances, words=sum(sizes)
        )
        parts = tf.split(floats_between(words, self.low, self.high), sizes, 1)
        scales = [
            tf.cast(tf.exp(tf.reshape(part, p.shape)), p.dtype)
            for part, p in zip(parts, params, strict=True)
        ]
        scaled = [p / c for p, c in zip(params, scales, strict=True)]
        return scaled, {"data": data, "scales": scales}

    def losses(self, params, data, step, **options):
        """Returns the losses; see `Problem.losses`."""
        params = [p * c for p, c in zip(params, data["scales"], strict=True)]
        return self.problem.losses(params, data["data"], step, **options)
