"""Losses of pairs and triplets of embedded examples."""

from __future__ import annotations

import tensorflow as tf


def distances(x: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
    """Returns Euclidean distances, `[..., n, m]`.

    Args:
        x: `[..., n, d]`.
        points: `[..., m, d]`.
    """
    gaps = x[..., tf.newaxis, :] - points[..., tf.newaxis, :, :]
    squares = tf.reduce_sum(tf.square(gaps), axis=-1)
    # At 0, the square root's derivative is infinite.
    is_apart = squares > 0
    roots = tf.sqrt(tf.where(is_apart, squares, tf.ones_like(squares)))
    return tf.where(is_apart, roots, tf.zeros_like(roots))


def contrastive_loss(
    y_true: tf.Tensor, y_pred: tf.Tensor, margin: float = 1.0
) -> tf.Tensor:
    """Pulls examples of one class together, and others apart.

    The loss of a pair at distance `d` is `d^2` if it is of one class, and
    `max(margin - d, 0)^2` otherwise ([Hadsell et al.,
    2006](https://doi.org/10.1109/CVPR.2006.100), equation 4, up to the factor
    1/2).

    Args:
        y_true: 1 for pairs of one class, 0 for others.
        y_pred: Distances, of the same shape.
        margin: How far apart others have to be.

    Returns:
        The loss of each pair.
    """
    y_true = tf.cast(y_true, y_pred.dtype)
    others = tf.square(tf.maximum(margin - y_pred, 0.0))
    return y_true * tf.square(y_pred) + (1 - y_true) * others


def triplet_loss(
    y_true: tf.Tensor, y_pred: tf.Tensor, margin: float = 1.0
) -> tf.Tensor:
    """Keeps other classes farther away than the own, with semi-hard negatives.

    For each pair of one class at distance `d`, the negative is the nearest
    example of another class that is farther than `d`; if there is none, the
    farthest one. The loss is the mean of `max(d - its distance + margin, 0)`
    ([Schroff et al., 2015](https://arxiv.org/abs/1503.03832), section 3.2).

    Args:
        y_true: Class numbers, `[n]`.
        y_pred: Embedded examples, `[n, d]`.
        margin: How much farther.

    Returns:
        A scalar.
    """
    d = distances(y_pred, y_pred)
    y_true = tf.reshape(y_true, [-1])
    is_same = tf.equal(y_true[:, tf.newaxis], y_true)
    is_other = tf.logical_not(is_same)
    # Of anchor, positive and negative, `[n, n, n]`.
    is_farther = tf.logical_and(
        is_other[:, tf.newaxis], d[:, tf.newaxis] > d[..., tf.newaxis]
    )
    far = tf.where(is_farther, d[:, tf.newaxis], d.dtype.max)
    farthest = tf.reduce_max(tf.where(is_other, d, d.dtype.min), axis=1)
    negatives = tf.where(
        tf.reduce_any(is_farther, axis=2),
        tf.reduce_min(far, axis=2),
        farthest[:, tf.newaxis],
    )
    positives = tf.linalg.set_diag(
        tf.cast(is_same, d.dtype), tf.zeros_like(d[:, 0])
    )
    terms = positives * tf.maximum(d - negatives + margin, 0.0)
    number = tf.reduce_sum(positives)
    return tf.math.divide_no_nan(tf.reduce_sum(terms), number)
