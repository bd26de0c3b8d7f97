"""Sine wave regression, the smallest meta-learning problem."""

import dataclasses
import math
from typing import Any

import tensorflow as tf

from keras_meta.checks import check_choice
from keras_meta.checks import check_int64
from keras_meta.checks import check_positive
from keras_meta.checks import describe
from keras_meta.episodes.arguments import as_array
from keras_meta.episodes.arguments import check_drawing
from keras_meta.episodes.arguments import check_range
from keras_meta.episodes.pipeline import as_episodes
from keras_meta.episodes.pipeline import episode_dataset
from keras_meta.episodes.random_bits import floats_between
from keras_meta.episodes.random_bits import random_words

Range = tuple[float, float]
Batch = tuple[dict[str, tf.Tensor], tf.Tensor]

_WAVE_STREAM = 1
_POINT_STREAM = 2
_PARAMETERS = 3
# Small batches are drawn together, up to this many points.
_POINTS_AT_ONCE = 2**14
# No processor has wider float32 vectors.
_VECTOR = 16


@dataclasses.dataclass(frozen=True)
class SinusoidFamily:
    """Sine waves `amplitude * sin(frequency * x + phase)`.

    Each task is one wave. Its parameters are drawn uniformly from ranges,
    which default to those of the MAML paper.

    Attributes:
        amplitude: Smallest and largest amplitude.
        frequency: Smallest and largest angular frequency.
        phase: Smallest and largest phase, in radians.
        x: Smallest and largest input.

    Raises:
        ValueError: If a range is not a pair of finite numbers in order.

    References:
        Finn, Abbeel and Levine, Model-agnostic meta-learning, 2017.

    Example:
    >>> family = SinusoidFamily(amplitude=(1.0, 1.0), phase=(0.0, 0.0))
    >>> x, y = family.draw(seed=0, index=0, tasks=4, shots=5, queries=10)
    >>> y.shape
    TensorShape([4, 10, 1])
    >>> bool(tf.reduce_all(y == tf.sin(x["query_x"])))
    True
    """

    amplitude: Range = (0.1, 5.0)
    frequency: Range = (1.0, 1.0)
    phase: Range = (0.0, math.pi)
    x: Range = (-5.0, 5.0)

    def __post_init__(self) -> None:
        check_range(
            amplitude=self.amplitude,
            frequency=self.frequency,
            phase=self.phase,
            x=self.x,
        )

    def draw(
        self,
        seed: int | tf.Tensor,
        index: int | tf.Tensor,
        tasks: int,
        shots: int,
        queries: int,
    ) -> Batch:
        """Draws a batch of consecutive episodes.

        A pure function that works eagerly and inside a `tf.function`. An
        episode depends only on the seed, its index and the number of points;
        its wave depends only on the seed and the index.

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
        words = random_words(
            seed, _POINT_STREAM, index, rows=tasks, words=shots + queries
        )
        inputs = floats_between(words, *self.x)[..., tf.newaxis]
        outputs = self.evaluate(self.parameters(seed, index, tasks), inputs)
        return as_episodes(inputs, outputs, shots)

    def parameters(
        self, seed: int | tf.Tensor, index: int | tf.Tensor, tasks: int
    ) -> tf.Tensor:
        """Returns the parameters of the waves that `draw` draws.

        Args:
            seed: Seed of the episodes.
            index: Index of the first episode.
            tasks: Number of episodes.

        Returns:
            A float32 tensor `[tasks, 3]`: amplitude, frequency, phase.

        Raises:
            ValueError: See `draw`.
        """
        check_drawing(seed, index, tasks)
        words = random_words(
            seed, _WAVE_STREAM, index, rows=tasks, words=_PARAMETERS
        )
        lows, highs = zip(
            self.amplitude, self.frequency, self.phase, strict=True
        )
        return floats_between(words, lows, highs)

    def evaluate(self, parameters: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Evaluates waves at given inputs, for plots and tests.

        Args:
            parameters: float32 `[tasks, 3]`: amplitude, frequency, phase.
            x: float32 inputs `[tasks, points, 1]` or `[points, 1]`.

        Returns:
            A float32 tensor `[tasks, points, 1]`.

        Raises:
            ValueError: If the arguments are not floats of these shapes.

        Example:
        >>> wave = tf.constant([[2.0, 1.0, 0.0]])
        >>> SinusoidFamily().evaluate(wave, tf.zeros([3, 1])).shape
        TensorShape([1, 3, 1])
        """
        parameters = _as_floats("parameters", parameters, [None, _PARAMETERS])
        x = _as_floats("x", x, [None, 1], [None, None, 1])
        amplitude, frequency, phase = tf.split(
            parameters[:, tf.newaxis, :], _PARAMETERS, axis=-1
        )
        return amplitude * _sin(frequency * x + phase)


def sinusoids(
    *,
    shots: int,
    queries: int,
    tasks: int,
    family: str | SinusoidFamily = "maml",
    seed: int = 0,
    start: int = 0,
    num_batches: int | None = None,
) -> tf.data.Dataset:
    """Episodes of sine wave regression, ready for `model.fit`.

    Args:
        shots: Number of support points.
        queries: Number of query points.
        tasks: Number of episodes in a batch.
        family: The waves. `"maml"`: amplitude in 0.1..5, phase in 0..pi.
            `"meta_sgd"`: also frequency in 0.8..1.2. `"reptile"`: amplitude
            in 0.1..5, phase in 0..2 pi. Inputs are in -5..5. For other
            ranges, pass a `SinusoidFamily`.
        seed: Seed of the episodes.
        start: Index of the first episode.
        num_batches: Number of batches, or None for an endless data set.

    Returns:
        A `tf.data.Dataset` of `(x, y)`, float32. `x["support_x"]` and
        `x["support_y"]` are `[tasks, shots, 1]`; `x["query_x"]` and `y` are
        `[tasks, queries, 1]`.

    Raises:
        ValueError: If a size is not positive or the family is unknown.

    References:
        Finn, Abbeel and Levine, Model-agnostic meta-learning, 2017.
        Li et al., Meta-SGD: learning to learn quickly for few-shot
        learning, 2017.
        Nichol, Achiam and Schulman, On first-order meta-learning
        algorithms, 2018.

    Example:
    >>> episodes = sinusoids(shots=10, queries=10, tasks=25)
    >>> episodes.element_spec[1].shape
    TensorShape([25, 10, 1])
    """
    check_positive(shots=shots, queries=queries, tasks=tasks)
    check_int64(seed=seed)
    if num_batches is not None:
        check_positive(num_batches=num_batches)
    if not isinstance(family, SinusoidFamily):
        families = _families()
        check_choice("family", family, tuple(families))
        family = families[family]
    together = max(min(_POINTS_AT_ONCE // (tasks * (shots + queries)), 64), 1)
    if num_batches is not None:
        together = max(min(together, num_batches), 1)
    return episode_dataset(
        lambda index: family.draw(
            seed, index, tasks * together, shots, queries
        ),
        tasks=tasks,
        start=start,
        num_batches=num_batches,
        together=together,
    )


def _as_floats(name: str, value: Any, *shapes: list[int | None]) -> tf.Tensor:
    """Returns a float32 tensor, which must have one of the given shapes."""
    if isinstance(value, tf.Tensor):
        is_floating = value.dtype.is_floating
    else:
        value = as_array(name, value)
        is_floating = value.dtype.kind == "f"
    shape = tf.TensorShape(value.shape)
    if not is_floating or not any(map(shape.is_compatible_with, shapes)):
        raise ValueError(
            f"`{name}` must be floats of shape "
            f"{' or '.join(map(str, shapes))}. Received: {name}="
            f"{describe(value)}"
        )
    return tf.cast(value, tf.float32)


def _sin(x: tf.Tensor) -> tf.Tensor:
    """Returns the sine, rounded the same way at every position in `x`.

    TensorFlow computes full processor vectors one way and the remainder at
    the end another way.
    """
    flat = tf.reshape(x, [-1])
    rest = -tf.size(flat) % _VECTOR
    return tf.reshape(
        tf.sin(tf.pad(flat, [[0, rest]]))[: tf.size(flat)], tf.shape(x)
    )


def _families() -> dict[str, SinusoidFamily]:
    return {
        "maml": SinusoidFamily(),
        "meta_sgd": SinusoidFamily(frequency=(0.8, 1.2)),
        "reptile": SinusoidFamily(phase=(0.0, 2 * math.pi)),
    }
