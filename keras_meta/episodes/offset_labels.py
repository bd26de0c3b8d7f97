"""Labels that come one item late."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from keras_meta.checks import check_at_least
from keras_meta.checks import check_positive
from keras_meta.episodes.arguments import as_array


def offset_labels(labels: Any, ways: int) -> tf.Tensor:
    """Returns for each item of a sequence the label of the one before.

    Args:
        labels: Class numbers, `[sequences, n]`.
        ways: Number of classes.

    Returns:
        One-hot labels, `[sequences, n, ways]`, float32. The first item has
        zeros.

    Raises:
        ValueError: If `ways` is below 2, or labels are not class numbers
            below it. In a graph, labels out of range become zeros.

    Example:
    >>> offset_labels([[2, 0]], ways=3)[0].numpy()
    array([[0., 0., 0.],
           [0., 0., 1.]], dtype=float32)
    """
    check_positive(ways=ways)
    check_at_least(2, ways=ways)
    labels = _as_labels(labels, ways)
    one_hot = tf.one_hot(labels, ways)
    return tf.pad(one_hot, [[0, 0], [1, 0], [0, 0]])[:, :-1]


def _as_labels(labels: Any, ways: int) -> tf.Tensor:
    if not isinstance(labels, tf.Tensor):
        labels = as_array("labels", labels)
        if labels.dtype.kind in "iu":
            labels = tf.convert_to_tensor(labels)
    is_integer = isinstance(labels, tf.Tensor) and labels.dtype.is_integer
    if not is_integer or len(labels.shape) != 2:
        raise ValueError(
            "`labels` must be class numbers, integers [sequences, n]. "
            f"Received: labels of shape {labels.shape} and type "
            f"{labels.dtype}."
        )
    if tf.executing_eagerly():
        _check_range(np.asarray(labels), ways)
    return tf.cast(labels, tf.int32)


def _check_range(labels: np.ndarray, ways: int) -> None:
    outside = labels[(labels < 0) | (labels >= ways)]
    if outside.size:
        raise ValueError(
            f"`labels` must be in 0..{ways - 1}, as there are {ways} classes. "
            f"Received: label {outside[0]}."
        )
