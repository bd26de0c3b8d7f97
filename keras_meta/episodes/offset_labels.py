"""Labels that come one item late."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_meta.checks import check_at_least


def offset_labels(labels: Any, ways: int) -> tf.Tensor:
    """Returns for each item of a sequence the label of the one before.

    Args:
        labels: Class numbers, `[sequences, n]`.
        ways: Number of classes.

    Returns:
        One-hot labels, `[sequences, n, ways]`, float32. The first item has
        zeros.

    Raises:
        ValueError: If `ways` is below 2.

    Example:
    >>> offset_labels([[2, 0]], ways=3)[0].numpy()
    array([[0., 0., 0.],
           [0., 0., 1.]], dtype=float32)
    """
    check_at_least(2, ways=ways)
    one_hot = tf.one_hot(labels, ways)
    return tf.pad(one_hot, [[0, 0], [1, 0], [0, 0]])[:, :-1]
