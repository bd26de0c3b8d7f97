"""Labels and predictions that differ in rank, in custom losses."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import keras
import tensorflow as tf

from keras_meta.batching.annotations import keras_mask
from keras_meta.batching.annotations import map_annotated


def to_same_rank(
    y_true: tf.Tensor, y_pred: tf.Tensor, axis: int = 1
) -> tuple[tf.Tensor, tf.Tensor]:
    """Gives labels and predictions one rank, as Keras does for functions.

    A last axis of size 1 that one of them lacks is added to labels or
    predictions of the shape `[n]`, and otherwise dropped from the other.

    Args:
        y_true: Labels, `[tasks, n, ...]`.
        y_pred: Predictions, `[tasks, n, ...]`. If they have a mask, an axis
            is added in any case, as each entry of a mask stands for an entry
            of the predictions.
        axis: The axis of the examples.
    """
    is_masked = keras_mask(y_pred) is not None

    def can_add(short, long):
        return short.shape.rank == axis + 1 or is_masked

    if _lacks_last_axis(y_true, y_pred):
        if can_add(y_true, y_pred):
            return _add_last_axis(y_true), y_pred
        return y_true, map_annotated(_drop_last_axis, y_pred)
    if _lacks_last_axis(y_pred, y_true):
        if can_add(y_pred, y_true):
            return y_true, map_annotated(_add_last_axis, y_pred)
        return _drop_last_axis(y_true), y_pred
    return y_true, y_pred


def refuse_pairs(
    call: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    name: str,
    labels: str,
    y_true: tf.TensorShape,
    y_pred: tf.TensorShape,
) -> None:
    """Refuses a loss that pairs each label with the predictions of all.

    `y_true - y_pred` of the shapes `[n]` and `[n, 1]` has the shape `[n, n]`,
    without an error. So the loss is traced for other numbers of examples, and
    for more predictions than labels. A loss that compares each label with its
    own prediction then fails, or at least makes no tensor whose axes are the
    labels and the predictions.

    Args:
        call: The loss of one task's labels and predictions.
        name: What errors call it.
        labels: What errors call the labels.
        y_true: Their shape, `[tasks, n, ...]`.
        y_pred: The shape of the predictions, `[tasks, n, ...]`.

    Raises:
        ValueError: If the loss broadcasts labels against other examples.
    """
    if y_true.rank == y_pred.rank or min(y_true.rank, y_pred.rank) < 2:
        return
    taken = {*y_true, *y_pred}
    free = (n for n in itertools.count(7) if n not in taken)
    some, more = itertools.islice(free, 2)
    # With as many examples as classes, wrong axes may happen to fit.
    fits_by_chance = y_true[1] in {None, *y_true[2:], *y_pred[2:]}
    received = (
        f"Received: {labels}.shape={y_true} for predictions of the shape "
        f"{y_pred} ([tasks, examples, ...]). Give `{labels}` as many axes as "
        "the predictions have, or let the loss reshape them."
    )
    try:
        _trace(call, y_true, y_pred, some if fits_by_chance else y_true[1])
    except ValueError as error:
        raise ValueError(
            f"The loss '{name}' cannot compare labels and predictions of "
            f"these shapes. {received} What failed: {error}"
        ) from error
    if _has_pairs(call, y_true, y_pred, some, more):
        raise ValueError(
            f"The loss '{name}' compares each label with the predictions of "
            f"all examples. {received}"
        )


def _trace(
    call, y_true: tf.TensorShape, y_pred: tf.TensorShape, labels: int, more=None
) -> tf.Graph:
    """Returns the graph of a loss for other numbers of examples."""
    dtype = keras.config.floatx()
    return (
        tf.function(call, autograph=False)
        .get_concrete_function(
            tf.TensorSpec([labels, *y_true[2:]], dtype),
            tf.TensorSpec([more or labels, *y_pred[2:]], dtype),
        )
        .graph
    )


def _has_pairs(call, y_true, y_pred, labels: int, predictions: int) -> bool:
    """Whether a loss makes a tensor of all labels and all predictions."""
    try:
        graph = _trace(call, y_true, y_pred, labels, predictions)
    except ValueError:
        return False
    pair = {labels, predictions}
    return any(
        pair <= set(output.shape)
        for operation in graph.get_operations()
        for output in operation.outputs
        if output.shape.rank
    )


def _lacks_last_axis(short: tf.Tensor, long: tf.Tensor) -> bool:
    return long.shape.rank == short.shape.rank + 1 and long.shape[-1] == 1


def _add_last_axis(x: tf.Tensor) -> tf.Tensor:
    return x[..., tf.newaxis]


def _drop_last_axis(x: tf.Tensor) -> tf.Tensor:
    return tf.squeeze(x, -1)
