"""The inner loss: one number per task."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

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
    the loss without either.

    Args:
        loss: A Keras loss, its name, or a function of `(y_true, y_pred)`
            that returns a loss per example or one number.
        labels: What errors call the labels.
    """

    def __init__(
        self,
        loss: str | keras.losses.Loss | Callable,
        labels: str = "support_y",
    ):
        self._labels = labels
        self.loss = keras.losses.get(loss)
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
    def ignored_class(self) -> int | None:
        """The class number whose examples do not count."""
        return getattr(self.loss, "ignore_class", None)

    def __call__(
        self,
        y_true: tf.Tensor,
        y_pred: tf.Tensor,
        sample_weight: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Returns the losses, `[tasks]`.

        Args:
            y_true: Labels, `[tasks, n, ...]`.
            y_pred: Predictions, `[tasks, n, ...]`. What their Keras mask
                rules out does not count, for models with one output.
            sample_weight: Weights of the examples, `[tasks, n]`.
        """
        mask = None if keras.tree.is_nested(y_pred) else keras_mask(y_pred)
        y_pred = keras.tree.map_structure(_at_least_float32, y_pred)
        if _is_example_wise(self.loss):
            self._require_one_output(y_pred)
            check_shapes(self.loss, self._labels, y_true.shape, y_pred.shape)
            y_true, y_pred = self._align(y_true, y_pred)
            return self._reduced(y_true, y_pred, sample_weight, mask)
        if not keras.tree.is_nested(y_pred):
            y_true = tf.cast(y_true, y_pred.dtype)
        tasks = {"y_true": y_true, "y_pred": y_pred}
        if sample_weight is not None:
            tasks["sample_weight"] = sample_weight
        if mask is not None:
            tasks["mask"] = mask
        return tf.vectorized_map(lambda task: self._one_task(**task), tasks)

    def _require_one_output(self, y_pred) -> None:
        if keras.tree.is_nested(y_pred):
            raise ValueError(
                f"The inner loop's loss, {self.loss!r}, compares one output "
                "with the labels. Received: predictions of type "
                f"{type(y_pred).__name__}. Pass `inner_loss=`, a function of "
                "(y_true, y_pred)."
            )

    def _align(self, y_true: tf.Tensor, y_pred: tf.Tensor):
        """Gives both a last axis, over which the loss of an example reduces."""
        if self.is_sparse or y_true.shape.rank == y_pred.shape.rank:
            return y_true, y_pred
        if y_true.shape.rank < y_pred.shape.rank:
            return y_true[..., tf.newaxis], y_pred
        return y_true, y_pred[..., tf.newaxis]

    def _one_task(self, y_true, y_pred, sample_weight=None, mask=None):
        def add_axis(x):
            return None if x is None else x[tf.newaxis]

        values, kept = self._values(y_true, y_pred)
        mask = add_axis(_both(mask, kept))
        return self._reduce(add_axis(values), add_axis(sample_weight), mask)[0]

    def _reduced(self, y_true, y_pred, sample_weight, mask):
        values, kept = self._values(y_true, y_pred)
        return self._reduce(values, sample_weight, _both(mask, kept))

    def _values(self, y_true, y_pred):
        """Returns unreduced losses, and which of them count, if not all."""
        is_loss = isinstance(self.loss, keras.losses.Loss)
        function = self.loss.call if is_loss else self.loss
        values = function(y_true, y_pred)
        return tf.convert_to_tensor(values), keras_mask(values)

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
        loss: A Keras loss, its name, or a function. Nothing is refused where
            it is not known to compare each example alone.
        labels: What the message calls the labels.
        y_true: Their shape.
        y_pred: The shape of the predictions.

    Raises:
        ValueError: If the shapes do not fit.
    """
    loss = keras.losses.get(loss)
    if not _is_example_wise(loss) or None in (y_true.rank, y_pred.rank):
        return
    needed = y_pred[:-1] if _is_sparse(loss) else y_pred
    one_output = y_pred[-1] == 1 or y_true[-1] == 1
    fits = y_true.is_compatible_with(needed)
    fits = fits or one_output and _same_but_last_one(y_true, needed)
    if not fits:
        name = getattr(loss, "name", None) or loss.__name__
        raise ValueError(
            f"The loss '{name}' needs `{labels}` of the shape {needed} for "
            f"predictions of the shape {y_pred} ([tasks, examples, ...]). "
            f"Received: {labels}.shape={y_true}. Use a loss that fits the "
            "labels (sparse_categorical_crossentropy for class numbers, "
            "categorical_crossentropy for one-hot labels)."
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


def keras_mask(x) -> tf.Tensor | None:
    """Returns which entries of a tensor count, where Keras says so."""
    return getattr(x, "_keras_mask", None)


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


def _at_least_float32(x: tf.Tensor) -> tf.Tensor:
    return tf.cast(x, keras.backend.result_type(x.dtype, "float32"))
