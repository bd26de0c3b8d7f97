"""Problems whose parameters have random scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_choice
from keras_meta.checks import describe
from keras_meta.checks import is_finite_number
from keras_meta.episodes.random_bits import floats_between
from keras_meta.problems.problem import Problem
from keras_meta.problems.words import instance_words

_STREAMS = {"coordinate": 102, "tensor": 104, "instance": 105}
# Offset of the streams when a scaled problem is scaled again.
_NEXT_STREAMS = 16
# exp(88.7) is the largest number in float32.
_LARGEST_LOG = 80


@keras.saving.register_keras_serializable("keras_meta")
class RandomScaling(Problem):
    """The same problems with rescaled parameters.

    For a random `c`, the function `f(c * theta)` is optimized, starting from
    the initial parameters divided by `c`. An update rule trained on it cannot
    rely on gradients of one magnitude, or on a single right rate.

    Args:
        problem: The family of problems.
        low: Smallest logarithm of a scale.
        high: Largest logarithm of a scale.
        per: Which parts of an instance have their own scale: each
            `"coordinate"`, as in the paper, each `"tensor"`, or the whole
            `"instance"`.

    Raises:
        ValueError: If `low` and `high` are not numbers in order between -80
            and 80, or `per` is not one of the three.
        TypeError: If `problem` is not a `Problem`.

    Example:
    >>> from keras_meta.problems import Quadratic
    >>> problem = RandomScaling(Quadratic(3))
    >>> params, data = problem.draw(seed=0, index=0, instances=2)
    >>> problem.losses(params, data, step=0).shape
    TensorShape([2])

    References:
        - [Lv et al., 2017](https://arxiv.org/abs/1703.03633), section 3.1.
    """

    def __init__(
        self,
        problem: Problem,
        low: float = -3.0,
        high: float = 3.0,
        *,
        per: str = "coordinate",
    ):
        check_choice("per", per, tuple(_STREAMS))
        in_order = all(map(is_finite_number, (low, high))) and low <= high
        if not in_order or max(-low, high) > _LARGEST_LOG:
            raise ValueError(
                "`low` and `high` must be finite numbers in order, from "
                f"{-_LARGEST_LOG} to {_LARGEST_LOG}, so that their "
                f"exponentials fit float32. Received: low={describe(low)}, "
                f"high={describe(high)}"
            )
        if not isinstance(problem, Problem):
            raise TypeError(
                "`problem` must be a keras_meta.problems.Problem. Received: "
                f"problem={describe(problem)}"
            )
        self.problem = problem
        self.low = low
        self.high = high
        self.per = per
        self._stream = _STREAMS[per]
        while isinstance(problem, RandomScaling):
            self._stream += _NEXT_STREAMS
            problem = problem.problem

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables of the family being scaled."""
        return self.problem.variables

    @property
    def supports_jit(self) -> bool:
        """Whether XLA can compile the family being scaled."""
        return self.problem.supports_jit

    def draw(
        self, seed: int | tf.Tensor, index: int | tf.Tensor, instances: int
    ) -> tuple[list[tf.Tensor], Any]:
        """Draws instances and their scales; see `Problem.draw`."""
        params, data = self.problem.draw(seed, index, instances)
        shapes = [self._scales_of(p) for p in params]
        sizes = [math.prod(shape) for shape in shapes]
        count = 1 if self.per == "instance" else sum(sizes)
        words = instance_words(
            seed, self._stream, index, rows=instances, words=count
        )
        logs = floats_between(words, self.low, self.high)
        parts = [logs] * len(params)
        if self.per != "instance":
            parts = tf.split(logs, sizes, axis=1)
        scales = [
            tf.cast(tf.exp(tf.reshape(part, [-1, *shape])), p.dtype)
            for part, shape, p in zip(parts, shapes, params, strict=True)
        ]
        scaled = [p / c for p, c in zip(params, scales, strict=True)]
        return scaled, {"data": data, "scales": scales}

    def _scales_of(self, param: tf.Tensor) -> list[int]:
        """Returns the shape of a parameter's scales."""
        shape = param.shape[1:].as_list()
        return shape if self.per == "coordinate" else [1] * len(shape)

    def losses(
        self,
        params: Sequence[tf.Tensor],
        data: Any,
        step: int | tf.Tensor,
        **options: Any,
    ) -> tf.Tensor:
        """Returns the losses; see `Problem.losses`."""
        params = [p * c for p, c in zip(params, data["scales"], strict=True)]
        return self.problem.losses(params, data["data"], step, **options)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            "problem": keras.saving.serialize_keras_object(self.problem),
            "low": self.low,
            "high": self.high,
            "per": self.per,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> RandomScaling:
        """Makes a problem from `get_config`'s dict."""
        problem = keras.saving.deserialize_keras_object(config["problem"])
        return cls(**{**config, "problem": problem})

    def save_assets(self, folder: str) -> None:
        """Writes those of the family that is scaled."""
        self.problem.save_assets(folder)

    def load_assets(self, folder: str) -> None:
        """Reads those of the family that is scaled."""
        self.problem.load_assets(folder)
