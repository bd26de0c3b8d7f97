"""Sine waves and lines, which few noisy points do not tell apart."""

from __future__ import annotations

import dataclasses
import math

import tensorflow as tf

from keras_meta.checks import check_int64
from keras_meta.checks import check_number_at_least
from keras_meta.checks import check_positive
from keras_meta.episodes.arguments import check_drawing
from keras_meta.episodes.arguments import check_range
from keras_meta.episodes.pipeline import as_episodes
from keras_meta.episodes.pipeline import episode_dataset
from keras_meta.episodes.random_bits import floats_between
from keras_meta.episodes.random_bits import random_words

Range = tuple[float, float]
Batch = tuple[dict[str, tf.Tensor], tf.Tensor]

_FUNCTION_STREAM = 1
_POINT_STREAM = 2
_PARAMETERS = 5
# Words for an input and for the noise of its label.
_WORDS = 2


@dataclasses.dataclass(frozen=True)
class SineOrLine:
    """Regression tasks that are a sine wave or a line, with equal chance.

    A task is `amplitude * sin(x + phase)` or `slope * x + intercept`, its
    parameters drawn uniformly from ranges. Labels of support and query sets
    have Gaussian noise. A few points on the flank of a wave could as well
    lie on a line, so a learner has to be unsure there. The defaults are
    those of the paper.

    Attributes:
        amplitude: Smallest and largest amplitude of waves.
        phase: Smallest and largest phase of waves, in radians.
        slope: Smallest and largest slope of lines.
        intercept: Smallest and largest intercept of lines.
        x: Smallest and largest input.
        noise: Standard deviation of the labels' noise, at least 0.

    Raises:
        ValueError: If a range is not a pair of finite numbers in order, or
            the noise is negative.

    References:
        Finn, Xu and Levine, Probabilistic model-agnostic meta-learning,
        2018, section 6.

    Example:
    >>> family = SineOrLine(noise=0.0)
    >>> x, y = family.draw(seed=0, index=0, tasks=4, shots=5, queries=10)
    >>> truth = family.evaluate(family.parameters(0, 0, 4), x["query_x"])
    >>> bool(tf.reduce_all(y == truth))
    True
    """

    amplitude: Range = (0.1, 5.0)
    phase: Range = (0.0, math.pi)
    slope: Range = (-3.0, 3.0)
    intercept: Range = (-3.0, 3.0)
    x: Range = (-5.0, 5.0)
    noise: float = 0.3

    def __post_init__(self) -> None:
        check_range(
            amplitude=self.amplitude,
            phase=self.phase,
            slope=self.slope,
            intercept=self.intercept,
            x=self.x,
        )
        check_number_at_least(0, noise=self.noise)

    def draw(
        self,
        seed: int | tf.Tensor,
        index: int | tf.Tensor,
        tasks: int,
        shots: int,
        queries: int,
    ) -> Batch:
        """Draws a batch of consecutive episodes.

        An episode depends only on the seed, its index and the number of
        points; its function depends only on the seed and the index.

        Args:
            seed: Seed of the episodes.
            index: Index of the first episode, at least 0.
            tasks: Number of episodes.
            shots: Number of support points.
            queries: Number of query points.

        Returns:
            A pair `(x, y)` of float32 tensors. `x["support_x"]` and
            `x["support_y"]` are `[tasks, shots, 1]`; `x["query_x"]` and `y`
            are `[tasks, queries, 1]`.

        Raises:
            ValueError: If the seed or the index is not an integer, the index
                is negative, or a size is not positive.
        """
        check_positive(shots=shots, queries=queries)
        check_drawing(seed, index, tasks)
        points = shots + queries
        words = random_words(
            seed, _POINT_STREAM, index, rows=tasks, words=_WORDS * points
        )
        places, noises = tf.split(words[..., tf.newaxis], 2, axis=1)
        inputs = floats_between(places, *self.x)
        truth = self.evaluate(self.parameters(seed, index, tasks), inputs)
        outputs = truth + self.noise * _normal(noises)
        return as_episodes(inputs, outputs, shots)

    def parameters(
        self, seed: int | tf.Tensor, index: int | tf.Tensor, tasks: int
    ) -> tf.Tensor:
        """Returns the parameters of the functions that `draw` draws.

        Args:
            seed: Seed of the episodes.
            index: Index of the first episode.
            tasks: Number of episodes.

        Returns:
            A float32 tensor `[tasks, 5]`: 1 for a line and 0 for a wave, then
            amplitude, phase, slope and intercept.

        Raises:
            ValueError: See `draw`.
        """
        check_drawing(seed, index, tasks)
        words = random_words(
            seed, _FUNCTION_STREAM, index, rows=tasks, words=_PARAMETERS
        )
        ranges = self.amplitude, self.phase, self.slope, self.intercept
        lows, highs = zip((0.0, 1.0), *ranges, strict=True)
        drawn = floats_between(words, lows, highs)
        is_line = tf.cast(drawn[:, :1] < 0.5, drawn.dtype)
        return tf.concat([is_line, drawn[:, 1:]], axis=1)

    def evaluate(self, parameters: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Evaluates functions at given inputs, without noise.

        Args:
            parameters: float32 `[tasks, 5]`, see `parameters`.
            x: float32 inputs, `[tasks, points, 1]` or `[points, 1]`.

        Returns:
            A float32 tensor `[tasks, points, 1]`.
        """
        is_line, amplitude, phase, slope, intercept = tf.split(
            parameters[:, tf.newaxis], _PARAMETERS, axis=-1
        )
        line = slope * x + intercept
        return tf.where(is_line > 0, line, amplitude * tf.sin(x + phase))

    def episodes(
        self,
        *,
        shots: int,
        queries: int,
        tasks: int,
        seed: int = 0,
        start: int = 0,
        num_batches: int | None = None,
    ) -> tf.data.Dataset:
        """Returns episodes, ready for `model.fit`.

        Args:
            shots: Number of support points.
            queries: Number of query points.
            tasks: Number of episodes in a batch.
            seed: Seed of the episodes.
            start: Index of the first episode.
            num_batches: Number of batches, or None for an endless data set.

        Returns:
            A `tf.data.Dataset` of what `draw` returns.

        Raises:
            ValueError: If a size is not positive.
        """
        check_positive(shots=shots, queries=queries, tasks=tasks)
        check_int64(seed=seed)
        return episode_dataset(
            lambda index: self.draw(seed, index, tasks, shots, queries),
            tasks=tasks,
            start=start,
            num_batches=num_batches,
        )


def _normal(words: tf.Tensor) -> tf.Tensor:
    """Turns words into standard normal numbers of up to 5.3."""
    # The quantile function is infinite at 0 and 1.
    edge = 2.0**-24
    return tf.math.ndtri(floats_between(words, edge, 1 - edge))
