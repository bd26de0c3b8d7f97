"""Solving `A x = b` for each task, with `A` given by its products."""

from __future__ import annotations

import math
from collections.abc import Callable
from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

Vectors = Sequence[tf.Tensor]


class Solution(NamedTuple):
    """What a solver found.

    Attributes:
        x: The solution, `[tasks, *shape]` each.
        is_valid: Whether it can be trusted, `[tasks]`.
    """

    x: list[tf.Tensor]
    is_valid: tf.Tensor


def conjugate_gradient(
    product: Callable[[Vectors], Vectors],
    b: Vectors,
    steps: int,
    tolerance: float = 0.0,
) -> Solution:
    """Solves positive definite systems by the conjugate gradient method.

    In exact arithmetic it ends after as many steps as the matrix has
    distinct eigenvalues. Each task stops on its own.

    Args:
        product: Multiplies by each task's matrix.
        b: The right-hand sides, `[tasks, *shape]` each.
        steps: Maximum number of steps.
        tolerance: A task stops when its residual is at most this fraction of
            its right-hand side.

    Returns:
        The solutions. One is not valid if a direction of negative curvature
        was met, because the matrix is not positive definite. It is then what
        was found before, or the first step along its right-hand side.
    """
    square = _dot(b, b)
    enough = tolerance**2 * square

    def goes_on(step, x, r, p, residual, is_valid):
        return tf.reduce_any((residual > enough) & is_valid)

    def iterate(step, x, r, p, residual, is_valid):
        moved = product(p)
        curvature = _dot(p, moved)
        is_active = (residual > enough) & is_valid
        is_valid &= ~is_active | (curvature > 0)
        # If curvature is negative at once, its size still sets the scale.
        is_taken = is_active & (is_valid | tf.equal(step, 0))
        is_active &= is_valid
        length = _where(is_taken, residual, tf.abs(curvature))
        x = _add(x, length, p)
        r = _add(r, -length, moved)
        new = _dot(r, r)
        p = _add(r, _where(is_active, new, residual), p)
        return step + 1, x, r, p, new, is_valid

    zeros = [tf.zeros_like(v) for v in b]
    valid = tf.ones_like(square, tf.bool)
    _, x, _, _, _, is_valid = tf.while_loop(
        goes_on,
        iterate,
        (tf.zeros([], tf.int32), zeros, list(b), list(b), square, valid),
        maximum_iterations=steps,
    )
    return Solution(x, is_valid)


def neumann_series(
    product: Callable[[Vectors], Vectors],
    b: Vectors,
    steps: int,
    rate: float,
) -> Solution:
    """Sums the first terms of the series `rate * sum_k (I - rate A)^k b`.

    It converges to the solution if all eigenvalues of `A` are between 0 and
    `2 / rate`.

    Args:
        product: Multiplies by each task's matrix.
        b: The right-hand sides, `[tasks, *shape]` each.
        steps: Number of terms.
        rate: See above.

    Returns:
        The sums. One is not valid if a term is longer than the one before
        it, because the series diverges.
    """
    # Rounding may lengthen a term that keeps its length.
    slack = 1 + 1e-4

    def iterate(step, total, term, square, is_valid):
        term = [t - rate * m for t, m in zip(term, product(term), strict=True)]
        total = [s + t for s, t in zip(total, term, strict=True)]
        new = _dot(term, term)
        return step + 1, total, term, new, is_valid & (new <= slack * square)

    square = _dot(b, b)
    valid = tf.ones_like(square, tf.bool)
    _, total, _, _, is_valid = tf.while_loop(
        lambda step, *_: step < steps,
        iterate,
        (tf.ones([], tf.int32), list(b), list(b), square, valid),
        maximum_iterations=steps - 1,
    )
    return Solution([rate * s for s in total], is_valid)


def norm(vectors: Vectors) -> tf.Tensor:
    """Returns the Euclidean norm of each task's vector, `[tasks]`."""
    return tf.sqrt(_dot(vectors, vectors))


def invalid_as_nan(solution: Solution) -> list[tf.Tensor]:
    """Returns solutions, NaN where they cannot be trusted."""
    return [
        tf.where(_over(solution.is_valid, x), x, tf.constant(math.nan, x.dtype))
        for x in solution.x
    ]


def _dot(a: Vectors, b: Vectors) -> tf.Tensor:
    """Returns inner products, `[tasks]`."""
    return tf.add_n(
        [
            tf.reduce_sum(x * y, axis=list(range(1, x.shape.rank)))
            for x, y in zip(a, b, strict=True)
        ]
    )


def _add(a: Vectors, factor: tf.Tensor, b: Vectors) -> list[tf.Tensor]:
    """Returns `a + factor * b`, with a factor for each task."""
    return [x + _over(factor, y) * y for x, y in zip(a, b, strict=True)]


def _where(
    condition: tf.Tensor, numerator: tf.Tensor, denominator: tf.Tensor
) -> tf.Tensor:
    """Returns quotients where a condition holds, else zeros."""
    safe = tf.where(condition, denominator, tf.ones_like(denominator))
    return tf.where(condition, numerator / safe, tf.zeros_like(numerator))


def _over(factor: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Reshapes one value for each task to the rank of `x`."""
    return tf.reshape(factor, [-1, *[1] * (x.shape.rank - 1)])
