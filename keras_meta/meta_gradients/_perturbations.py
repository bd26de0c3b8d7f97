"""Random perturbations, and the gradients that losses at them estimate."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from keras_meta.seeds import ALGORITHM
from keras_meta.seeds import fold_in

DRAWS = ("normal", "rademacher")


def draw_noise(
    theta: Sequence[tf.Tensor],
    seed: tf.Tensor,
    pairs: int | tf.Tensor,
    draws: str,
) -> list[tf.Tensor]:
    """Draws independent numbers of mean 0 and variance 1.

    Args:
        theta: Values whose shapes and types the draws take.
        seed: `[2]`, integers; the same seed draws the same numbers.
        pairs: How many draws to make for each value.
        draws: `"normal"`, or `"rademacher"` for the signs -1 and 1.

    Returns:
        A tensor `[pairs, *shape]` for each value.
    """

    def draw(i, value):
        own = fold_in(seed, i)
        shape = [pairs, *value.shape]
        if draws == "normal":
            return tf.random.stateless_normal(
                shape, own, dtype=value.dtype, alg=ALGORITHM
            )
        bits = tf.random.stateless_uniform(
            shape, own, 0, 2, tf.int32, alg=ALGORITHM
        )
        return tf.cast(2 * bits - 1, value.dtype)

    return [draw(i, value) for i, value in enumerate(theta)]


def antithetic(
    theta: Sequence[tf.Tensor], noise: Sequence[tf.Tensor], sigma: float
) -> list[tf.Tensor]:
    """Returns `theta + sigma * noise`, then `theta - sigma * noise`.

    Args:
        theta: Values, `[*shape]` each.
        noise: Their perturbations, `[pairs, *shape]` each.
        sigma: Standard deviation, where `noise` has variance 1.

    Returns:
        A tensor `[2 * pairs, *shape]` for each value. Rows `i` and
        `pairs + i` are a pair.
    """
    return [
        tf.concat([value + sigma * n, value - sigma * n], axis=0)
        for value, n in zip(theta, noise, strict=True)
    ]


def difference_estimate(
    losses: tf.Tensor, directions: Sequence[tf.Tensor], sigma: float
) -> list[tf.Tensor]:
    """Returns the mean over pairs of central differences along directions.

    It is `mean over i of (losses[i] - losses[pairs + i]) / (2 sigma) *
    directions[i]`. With the perturbation `e = sigma * noise` and the noise as
    the direction that is the usual `(L(theta + e) - L(theta - e)) * e /
    (2 sigma^2)`: directions have variance 1, and `sigma` is a standard
    deviation.

    Args:
        losses: `[2 * pairs]`, ordered as `antithetic` orders rows.
        directions: `[pairs, *shape]` each.
        sigma: Standard deviation of the perturbations.

    Returns:
        A gradient `[*shape]` for each direction.
    """
    plus, minus = tf.split(losses, 2)
    slopes = (plus - minus) / (2 * sigma)
    pairs = tf.size(slopes)

    def average(direction):
        total = tf.tensordot(tf.cast(slopes, direction.dtype), direction, 1)
        return total / tf.cast(pairs, total.dtype)

    return list(map(average, directions))
