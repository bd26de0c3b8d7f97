"""The inner loss: one number per task."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching.annotations import at_least_float32
from keras_meta.batching.annotations import attach
from keras_meta.batching.annotations import detach
from keras_meta.batching.annotations import keras_mask
from keras_meta.checks import describe
from keras_meta.inner.label_ranks import refuse_pairs
from keras_meta.inner.label_ranks import to_same_rank
from keras_meta.inner.layer_loss import LayerLoss
from keras_meta.inner.layer_loss import are_class_numbers
from keras_meta.inner.layer_loss import labels_like

_LOSSES = keras.losses

# Losses that compare each example alone, over the last axis.
_EXAMPLE_WISE = {
    _LOSSES.BinaryCrossentropy: _LOSSES.binary_crossentropy,
    _LOSSES.BinaryFocalCrossentropy: _LOSSES.binary_focal_crossentropy,
    _LOSSES.CategoricalCrossentropy: _LOSSES.categorical_crossentropy,
    _LOSSES.CategoricalFocalCrossentropy: (
        _LOSSES.categorical_focal_crossentropy
    ),
    _LOSSES.CategoricalHinge: _LOSSES.categorical_hinge,
    _LOSSES.Hinge: _LOSSES.hinge,
    _LOSSES.Huber: _LOSSES.huber,
    _LOSSES.KLDivergence: _LOSSES.kl_divergence,
    _LOSSES.LogCosh: _LOSSES.log_cosh,
    _LOSSES.MeanAbsoluteError: _LOSSES.mean_absolute_error,
    _LOSSES.MeanAbsolutePercentageError: (
        _LOSSES.mean_absolute_percentage_error
    ),
    _LOSSES.MeanSquaredError: _LOSSES.mean_squared_error,
    _LOSSES.MeanSquaredLogarithmicError: (
        _LOSSES.mean_squared_logarithmic_error
    ),
    _LOSSES.Poisson: _LOSSES.poisson,
    _LOSSES.SparseCategoricalCrossentropy: (
        _LOSSES.sparse_categorical_crossentropy
    ),
    _LOSSES.SquaredHinge: _LOSSES.squared_hinge,
}


class InnerLoss:
    """Computes the loss of each task.

    `keras.losses.Loss.__call__` averages over tasks and divides by the
    number of replicas, which would scale the inner learning rate; this calls
    the loss without either. Otherwise a task's loss is what Keras computes:
    a cross-entropy of a softmax or sigmoid is taken from its logits, here
    also in half precision, and a function gets labels and predictions of
    one rank where a last axis of size 1 makes the difference.

    Args:
        loss: A Keras loss, its name, or a function of `(y_true, y_pred)`
            that returns a loss per example or one number. Labels of any
            other shape than the predictions' reach a function as they are,
            so that class numbers may go with probabilities; axes of size 1
            broadcast then, as in Keras. A layer gets labels of the shape of
            the predictions, so class numbers come to it one-hot; see
            `LayerLoss`.
        labels: What errors call the labels.
    """

    def __init__(
        self,
        loss: str | keras.losses.Loss | keras.Layer | Callable,
        labels: str = "support_y",
    ):
        self._labels = labels
        self.loss = _as_loss(loss)
        reduction = getattr(self.loss, "reduction", "sum_over_batch_size")
        if reduction in (None, "none"):
            raise ValueError(
                "The loss must reduce to one number for each task. Received: "
                f"{self.loss!r} with reduction={reduction!r}. Use "
                "reduction='sum_over_batch_size' or 'sum'."
            )
        self._reduction = reduction

    @property
    def is_sparse(self) -> bool:
        """Whether labels are class numbers."""
        return _is_sparse(self.loss)

    @property
    def layer_loss(self) -> LayerLoss | None:
        """The loss, if it is a layer."""
        return self.loss if isinstance(self.loss, LayerLoss) else None

    def takes_as_class_numbers(
        self, y_true: tf.TensorShape, y_pred: tf.TensorShape
    ) -> bool:
        """Whether it takes labels for class numbers.

        Args:
            y_true: Shape of the labels.
            y_pred: Shape of the predictions.
        """
        if self.layer_loss is None:
            return self.is_sparse
        return are_class_numbers(y_true, y_pred)

    @property
    def sums_examples(self) -> bool:
        """Whether the loss of a task is the sum over its examples."""
        return self._reduction == "sum"

    @property
    def ignored_class(self) -> int | None:
        """The class number whose examples do not count."""
        return getattr(self.loss, "ignore_class", None)

    def __call__(
        self,
        y_true: tf.Tensor,
        y_pred: tf.Tensor,
        sample_weight: tf.Tensor | None = None,
        *,
        features: Any = None,
        weights: Sequence[tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """Returns the losses, `[tasks]`.

        Args:
            y_true: Labels, `[tasks, n, ...]`.
            y_pred: Predictions, `[tasks, n, ...]`. What their Keras mask
                rules out does not count, for models with one output.
            sample_weight: Weights of the examples, `[tasks, n]`.
            features: The inputs of the model, nested, `[tasks, n, ...]`
                each, for a layer that takes them.
            weights: What a layer learns, for each task, `[tasks, *shape]`
                each; by default the layer's own, for all tasks.
        """
        y_pred = keras.tree.map_structure(at_least_float32, y_pred)
        mask = None
        if keras.tree.is_nested(y_pred):
            self._require_function(y_pred)
        else:
            mask = keras_mask(y_pred)
            y_true, y_pred = self._align(y_true, y_pred)
        if _is_example_wise(self.loss):
            values, kept = self._values(y_true, y_pred)
            return self._reduce(values, sample_weight, _both(mask, kept))
        y_pred, notes = detach(y_pred)
        tasks = {"y_true": y_true, "y_pred": y_pred, "notes": notes}
        if sample_weight is not None:
            tasks["sample_weight"] = sample_weight
        if mask is not None:
            tasks["mask"] = mask
        if self.layer_loss is not None and self.layer_loss.takes_features:
            tasks["features"] = features
        if self.layer_loss is not None and weights is not None:
            tasks["weights"] = list(weights)
        return tf.vectorized_map(lambda task: self._one_task(**task), tasks)

    def _require_function(self, y_pred) -> None:
        if _is_example_wise(self.loss):
            raise ValueError(
                f"The inner loop's loss, {self.loss!r}, compares one output "
                "with the labels. Received: predictions of type "
                f"{type(y_pred).__name__}. Pass `inner_loss=`, a function of "
                "(y_true, y_pred)."
            )

    def _align(self, y_true: tf.Tensor, y_pred: tf.Tensor):
        """Returns labels and predictions as the loss takes them."""
        if self.layer_loss is not None:
            return labels_like(y_pred, y_true, self._labels), y_pred
        check_shapes(self.loss, self._labels, y_true.shape, y_pred.shape)
        is_example_wise = _is_example_wise(self.loss)
        if not is_example_wise:
            y_true = tf.cast(y_true, y_pred.dtype)
        # Keras gives other losses what comes.
        if is_example_wise or not isinstance(self.loss, keras.losses.Loss):
            y_true, y_pred = to_same_rank(y_true, y_pred)
        return y_true, y_pred

    def _one_task(
        self,
        y_true,
        y_pred,
        notes,
        sample_weight=None,
        mask=None,
        **of_layer,
    ):
        def add_axis(x):
            return None if x is None else x[tf.newaxis]

        values, kept = self._values(y_true, attach(y_pred, notes), **of_layer)
        mask = add_axis(_both(mask, kept))
        return self._reduce(add_axis(values), add_axis(sample_weight), mask)[0]

    def _values(self, y_true, y_pred, **of_layer):
        """Returns unreduced losses, and which of them count, if not all."""
        is_loss = isinstance(self.loss, keras.losses.Loss)
        function = self.loss.call if is_loss else self.loss
        values = function(y_true, y_pred, **of_layer)
        try:
            return tf.convert_to_tensor(values), keras_mask(values)
        except (TypeError, ValueError):
            raise TypeError(
                f"The loss '{_name(self.loss)}' must return a number for each "
                "example of a task, or one for all. Received: "
                f"{describe(values)}"
            ) from None

    def _reduce(self, values: tf.Tensor, weight, mask):
        if weight is not None:
            _check_weight(weight, values)
            weight = _spread(weight, values)
        if mask is not None:
            mask = _spread(mask, values)
            if self._reduction in ("sum_over_batch_size", "mean"):
                share = tf.reduce_mean(
                    mask, list(range(1, mask.shape.rank)), keepdims=True
                )
                mask = tf.math.divide_no_nan(mask, share)
            weight = mask if weight is None else mask * weight
        if weight is not None:
            values = values * weight
        axes = list(range(1, values.shape.rank))
        if self._reduction == "sum":
            return tf.reduce_sum(values, axes)
        if weight is not None and self._reduction == "mean_with_sample_weight":
            total = tf.reduce_sum(weight + tf.zeros_like(values), axes)
            return tf.math.divide_no_nan(tf.reduce_sum(values, axes), total)
        return tf.reduce_mean(values, axes)


def check_shapes(
    loss, labels: str, y_true: tf.TensorShape, y_pred: tf.TensorShape
) -> None:
    """Refuses labels that would fail obscurely or broadcast silently.

    Args:
        loss: A Keras loss, its name, or a function. Of a loss of one's own
            it is only known that it must not compare the label of each
            example with the predictions of all.
        labels: What the message calls the labels.
        y_true: Their shape.
        y_pred: The shape of the predictions.

    Raises:
        ValueError: If the shapes do not fit.
    """
    loss = keras.losses.get(loss)
    if None in (y_true.rank, y_pred.rank):
        return
    if not _is_example_wise(loss):
        refuse_pairs(_as_keras_calls(loss), _name(loss), labels, y_true, y_pred)
        return
    needed = y_pred[:-1] if _is_sparse(loss) else y_pred
    one_output = y_pred[-1] == 1 or y_true[-1] == 1
    fits = y_true.is_compatible_with(needed)
    fits = fits or one_output and _same_but_last_one(y_true, needed)
    if not fits:
        raise ValueError(
            f"The loss '{_name(loss)}' needs `{labels}` of the shape "
            f"{needed} for predictions of the shape {y_pred} ([tasks, "
            f"examples, ...]). Received: {labels}.shape={y_true}. Use a loss "
            "that fits the labels (sparse_categorical_crossentropy for class "
            "numbers, categorical_crossentropy for one-hot labels)."
        )


def averages_examples(loss, is_weighted: bool) -> bool:
    """Whether a loss is known to be the mean over examples, each taken alone.

    The mean of the losses of equal parts of a batch is then the loss of the
    batch.

    Args:
        loss: Whatever `compile` takes as a loss.
        is_weighted: Whether examples come with weights.
    """
    if loss is None or isinstance(loss, (dict, list, tuple)):
        return False
    loss = keras.losses.get(loss)
    if not _is_example_wise(loss):
        return False
    # Classes that are ignored change what the sum is divided by.
    if getattr(loss, "ignore_class", None) is not None:
        return False
    reduction = getattr(loss, "reduction", "sum_over_batch_size")
    if reduction in ("mean", "mean_with_sample_weight"):
        return not is_weighted
    return reduction == "sum_over_batch_size"


def _as_loss(loss) -> keras.losses.Loss | Callable:
    """Returns a loss of Keras or a function; raises on anything else."""
    if isinstance(loss, keras.Layer):
        return LayerLoss(loss)
    try:
        found = keras.losses.get(loss)
    except (TypeError, ValueError):
        found = None
    is_loss = isinstance(found, keras.losses.Loss)
    if not is_loss and not _takes_two(found):
        raise ValueError(
            "The loss must be a Keras loss, its name, or a function of "
            f"(y_true, y_pred). Received: {describe(loss)}"
        )
    return found


def _takes_two(function) -> bool:
    """Whether a function can be called with two arguments."""
    try:
        inspect.signature(function).bind(None, None)
    except TypeError:
        return False
    except ValueError:
        # Functions that are not written in Python tell nothing.
        return True
    return True


def _is_example_wise(loss) -> bool:
    # A class axis counted from the front would count the tasks too.
    known = _example_wise_function(loss) in _EXAMPLE_WISE.values()
    return known and getattr(loss, "axis", -1) < 0


def _example_wise_function(loss):
    return _EXAMPLE_WISE.get(type(loss), loss)


def _is_sparse(loss) -> bool:
    sparse = keras.losses.sparse_categorical_crossentropy
    return _example_wise_function(loss) is sparse


def _same_but_last_one(a: tf.TensorShape, b: tf.TensorShape) -> bool:
    """Whether shapes agree up to a last axis of size 1 in one of them."""
    short, long = sorted([a, b], key=lambda s: s.rank)
    same = long.rank == short.rank + 1 and long[-1] == 1
    return same and short.is_compatible_with(long[:-1])


def _as_keras_calls(loss) -> Callable:
    """Returns what Keras does with the labels and predictions of a task."""
    if isinstance(loss, keras.losses.Loss):
        return loss.call
    return lambda y_true, y_pred: loss(*to_same_rank(y_true, y_pred, axis=0))


def _name(loss: Any) -> str:
    name = getattr(loss, "name", None)
    return str(name or getattr(loss, "__name__", repr(loss)))


def _both(a: tf.Tensor | None, b: tf.Tensor | None) -> tf.Tensor | None:
    if a is None or b is None:
        return b if a is None else a
    return tf.logical_and(tf.cast(a, tf.bool), tf.cast(b, tf.bool))


def _check_weight(weight: tf.Tensor, values: tf.Tensor) -> None:
    # A loss of one number for each task is weighted as a whole.
    if weight.shape.rank > max(values.shape.rank, 2):
        raise ValueError(
            "`support_sample_weight` must have no more axes than the losses, "
            f"{values.shape} ([tasks, examples, ...]). Received: "
            f"support_sample_weight.shape={weight.shape}"
        )


def _spread(x: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Casts to the dtype of `values`, and gives as many axes."""
    extra = values.shape.rank - x.shape.rank
    shape = tf.concat([tf.shape(x), [1] * extra], 0)
    return tf.reshape(tf.cast(x, values.dtype), shape)
