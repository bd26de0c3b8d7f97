"""Random quadratic functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_choice
from keras_meta.checks import check_number_at_least
from keras_meta.checks import check_positive
from keras_meta.episodes.random_bits import floats_between
from keras_meta.problems.problem import Problem
from keras_meta.problems.words import instance_words

_STREAM = 101


@keras.saving.register_keras_serializable("keras_meta")
class Quadratic(Problem):
    """Functions `|X theta - y|^2` with random matrices and vectors.

    The entries of `X` and `y` are independent. The initial parameters are
    normally distributed with a small standard deviation.

    Args:
        dimensions: Length of `theta`.
        rows: Length of `y`. By default, equal to `dimensions`.
        entries: Distribution of the entries: `"normal"`, with mean 0 and
            standard deviation 1, as in the paper, or `"uniform"`, in 0..1, as
            in the paper's code.
        start: Standard deviation of the initial parameters.

    Raises:
        ValueError: If an argument is out of range.

    Example:
    >>> problem = Quadratic(dimensions=3)
    >>> params, data = problem.draw(seed=0, index=0, instances=2)
    >>> problem.losses(params, data, step=0).shape
    TensorShape([2])

    References:
        - [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
          section 3.1.
    """

    def __init__(
        self,
        dimensions: int = 10,
        rows: int | None = None,
        *,
        entries: str = "normal",
        start: float = 0.01,
    ):
        rows = dimensions if rows is None else rows
        check_positive(dimensions=dimensions, rows=rows)
        check_choice("entries", entries, ("normal", "uniform"))
        check_number_at_least(0, start=start)
        self.dimensions = dimensions
        self.rows = rows
        self.entries = entries
        self.start = start
        self._theta = keras.Variable(tf.zeros([dimensions]), name="theta")

    @property
    def variables(self) -> list[keras.Variable]:
        """One vector, `[dimensions]`."""
        return [self._theta]

    def draw(
        self, seed: int | tf.Tensor, index: int | tf.Tensor, instances: int
    ) -> tuple[list[tf.Tensor], Any]:
        """Draws functions; see `Problem.draw`."""
        matrix = self.rows * self.dimensions
        words = instance_words(
            seed,
            _STREAM,
            index,
            rows=instances,
            words=matrix + self.rows + self.dimensions,
        )
        x, y, theta = tf.split(words, [matrix, self.rows, self.dimensions], 1)
        x = tf.reshape(x, [instances, self.rows, self.dimensions])
        data = {"x": self._entries(x), "y": self._entries(y)}
        return [self.start * _normal(theta)], data

    def losses(
        self,
        params: Sequence[tf.Tensor],
        data: Any,
        step: int | tf.Tensor,
        *,
        second_order: bool = False,
        xla: bool | None = None,
    ) -> tf.Tensor:
        """Returns the functions' values; see `Problem.losses`."""
        difference = tf.linalg.matvec(data["x"], params[0]) - data["y"]
        return tf.reduce_sum(tf.square(difference), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            "dimensions": self.dimensions,
            "rows": self.rows,
            "entries": self.entries,
            "start": self.start,
        }

    def _entries(self, words: tf.Tensor) -> tf.Tensor:
        if self.entries == "normal":
            return _normal(words)
        return floats_between(words, 0.0, 1.0)


def _normal(words: tf.Tensor) -> tf.Tensor:
    """Turns words into normal numbers by the inverse distribution function."""
    # Avoids 0 and 1, where the inverse is infinite.
    smallest = 2.0**-24
    return tf.math.ndtri(floats_between(words, smallest, 1 - smallest))
