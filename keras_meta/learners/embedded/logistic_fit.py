"""Multinomial logistic regressions, one for each task, to their optimum."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_meta.kernels.full_product import full_product

# The optimum is where the gradient is this part of the first one.
_TOLERANCES = {tf.float32: 1e-5, tf.float64: 1e-9}
# Newton's method takes about ten steps; a step's system is solved by
# conjugate gradients, which take more the weaker the penalty is.
_MOST_STEPS = 100
_MOST_PRODUCTS = 500
_MOST_HALVINGS = 40
_ARMIJO = 1e-4


@dataclasses.dataclass(frozen=True)
class LogisticProblem:
    """Penalized multinomial logistic regressions.

    The loss of a task with coefficients `W`, `[d, ways]`, is

        sum_i sum_k y[i, k] (-log p[i, k]) + sum_jk penalty[j] W[j, k]^2 / 2

    with the softmax `p` of `x W`. Classes without a label in a task do not
    take part in its softmax. Their coefficients stay 0.

    Attributes:
        x: Examples, `[tasks, n, d]`.
        y: Weighted shares of the classes, `[tasks, n, ways]`.
        penalty: Strength of the penalty of each feature, `[d]`.
    """

    x: tf.Tensor
    y: tf.Tensor
    penalty: tf.Tensor

    def start(self) -> tf.Tensor:
        """Returns coefficients of 0, `[tasks, d, ways]`."""
        return tf.zeros_like(self._back(self.y))

    def value(self, w: tf.Tensor) -> tf.Tensor:
        """Returns the losses, `[tasks]`."""
        logits = self._logits(w)
        sizes = tf.reduce_sum(self.y, axis=-1)
        fit = sizes * tf.reduce_logsumexp(logits, axis=-1)
        fit -= tf.reduce_sum(self.y * logits, axis=-1)
        squares = self._weights_of(w) * tf.square(w)
        return tf.reduce_sum(fit, 1) + 0.5 * tf.reduce_sum(squares, [1, 2])

    def probabilities(self, w: tf.Tensor) -> tf.Tensor:
        """Returns the softmax, `[tasks, n, ways]`."""
        return tf.nn.softmax(self._logits(w))

    def gradient(self, w: tf.Tensor, p: tf.Tensor) -> tf.Tensor:
        """Returns the gradients, `[tasks, d, ways]`.

        Args:
            w: Coefficients.
            p: Their `probabilities`.
        """
        gaps = tf.reduce_sum(self.y, axis=-1, keepdims=True) * p - self.y
        return self._back(gaps) + self._weights_of(w) * w

    def curvature(self, p: tf.Tensor, v: tf.Tensor) -> tf.Tensor:
        """Returns products of the Hessian matrices, `[tasks, d, ways]`.

        Args:
            p: The probabilities where they are taken.
            v: Directions, `[tasks, d, ways]`.
        """
        moves = full_product(self.x, v)
        moves -= tf.reduce_sum(p * moves, axis=-1, keepdims=True)
        sizes = tf.reduce_sum(self.y, axis=-1, keepdims=True)
        return self._back(sizes * p * moves) + self._weights_of(v) * v

    def _logits(self, w: tf.Tensor) -> tf.Tensor:
        logits = full_product(self.x, w)
        is_there = tf.reduce_any(self.y > 0, axis=1, keepdims=True)
        return tf.where(is_there, logits, tf.cast(-1e9, logits.dtype))

    def _back(self, gaps: tf.Tensor) -> tf.Tensor:
        return full_product(self.x, gaps, transpose_a=True)

    def _weights_of(self, w: tf.Tensor) -> tf.Tensor:
        return tf.cast(self.penalty, w.dtype)[:, tf.newaxis]


class _Point(NamedTuple):
    """Where Newton's method stands.

    Attributes:
        w: Coefficients, `[tasks, d, ways]`.
        p: Their probabilities, `[tasks, n, ways]`.
        gradient: Of the loss, `[tasks, d, ways]`.
        value: The loss, `[tasks]`.
    """

    w: tf.Tensor
    p: tf.Tensor
    gradient: tf.Tensor
    value: tf.Tensor


def fit_logistic(problem: LogisticProblem) -> tf.Tensor:
    """Minimizes the losses of all tasks, by Newton's method.

    Each step is a descent direction, taken as far as the loss falls enough.
    A task whose gradient has vanished, to rounding, stays where it is.

    Args:
        problem: The regressions, in float32 or float64.

    Returns:
        The coefficients, `[tasks, d, ways]`; NaN for a task whose examples
        are not finite.
    """
    return _fit(problem.x, problem.y, problem.penalty)


# Op by op, the loops would take seconds.
@tf.function(autograph=False)
def _fit(x: tf.Tensor, y: tf.Tensor, penalty: tf.Tensor) -> tf.Tensor:
    problem = LogisticProblem(x, y, penalty)
    first = _at(problem, problem.start())
    goal = _TOLERANCES[problem.x.dtype] * _norms(first.gradient)

    def is_running(step, point):
        return tf.reduce_any(_norms(point.gradient) > goal)

    def take(step, point):
        norms = _norms(point.gradient)
        # A rough direction is enough far from the optimum.
        share = tf.math.divide_no_nan(norms, _norms(first.gradient))
        accuracy = tf.minimum(tf.cast(0.1, share.dtype), tf.sqrt(share))
        direction = _direction(problem, point, accuracy * norms, norms > goal)
        return step + 1, _descend(problem, point, direction)

    _, point = tf.while_loop(
        is_running,
        take,
        (tf.zeros([], tf.int32), first),
        maximum_iterations=_MOST_STEPS,
    )
    # The loop does not see such a task, and leaves its coefficients at 0.
    is_finite = _spread(tf.math.is_finite(point.value))
    return tf.where(is_finite, point.w, tf.cast(math.nan, point.w.dtype))


def _direction(
    problem: LogisticProblem,
    point: _Point,
    goal: tf.Tensor,
    is_running: tf.Tensor,
) -> tf.Tensor:
    """Solves `Hessian v = -gradient` by conjugate gradients.

    Args:
        problem: The regressions.
        point: Where the Hessian matrices are taken.
        goal: The length of the residual to reach, `[tasks]`.
        is_running: Which tasks to solve for, `[tasks]`; others get 0.

    Returns:
        Directions, `[tasks, d, ways]`.
    """

    def is_open(residual):
        return tf.logical_and(is_running, _norms(residual) > goal)

    def goes_on(v, residual, d):
        return tf.reduce_any(is_open(residual))

    def take(v, residual, d):
        square = _dot(residual, residual)
        product = problem.curvature(point.p, d)
        size = tf.math.divide_no_nan(square, _dot(d, product))
        size = _spread(tf.where(is_open(residual), size, tf.zeros_like(size)))
        v, rest = v + size * d, residual - size * product
        ratio = tf.math.divide_no_nan(_dot(rest, rest), square)
        return v, rest, rest + _spread(ratio) * d

    start = -point.gradient
    v, _, _ = tf.while_loop(
        goes_on,
        take,
        (tf.zeros_like(start), start, start),
        maximum_iterations=_MOST_PRODUCTS,
    )
    return v


def _descend(
    problem: LogisticProblem, point: _Point, direction: tf.Tensor
) -> _Point:
    """Goes as far as the loss falls enough, in each task."""
    slope = _dot(point.gradient, direction)
    # Near the optimum, the loss falls by less than its rounding.
    rounding = np.finfo(point.value.dtype.as_numpy_dtype).eps
    slack = 8 * rounding * tf.abs(point.value)

    def rises(sizes):
        value = problem.value(point.w + _spread(sizes) * direction)
        bound = point.value + _ARMIJO * sizes * slope + slack
        return tf.logical_not(value <= bound)

    def halve(sizes, is_high):
        sizes = tf.where(is_high, sizes / 2, sizes)
        return sizes, rises(sizes)

    ones = tf.ones_like(slope)
    sizes, _ = tf.while_loop(
        lambda sizes, is_high: tf.reduce_any(is_high),
        halve,
        (ones, rises(ones)),
        maximum_iterations=_MOST_HALVINGS,
    )
    return _at(problem, point.w + _spread(sizes) * direction)


def _at(problem: LogisticProblem, w: tf.Tensor) -> _Point:
    p = problem.probabilities(w)
    return _Point(w, p, problem.gradient(w, p), problem.value(w))


def _dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Returns inner products, `[tasks]`."""
    return tf.reduce_sum(a * b, axis=[1, 2])


def _norms(a: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(_dot(a, a))


def _spread(sizes: tf.Tensor) -> tf.Tensor:
    """Gives numbers of tasks the axes of coefficients."""
    return sizes[:, tf.newaxis, tf.newaxis]
