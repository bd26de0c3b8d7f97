"""Keras layers as losses."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching.annotations import at_least_float32
from keras_meta.checks import describe
from keras_meta.kernels.second_order import refuse_wrong_derivatives

# A layer whose `call` has an argument of this name gets the features.
_FEATURES = "x"


@dataclasses.dataclass(frozen=True)
class LayerLoss:
    """A Keras layer as a function of labels and predictions.

    The layer is called with `(y_true, y_pred)`, both `[n, ...]`. It also gets
    the features of the examples if its `call` has an argument `x`. A
    functional model has these two or three inputs, in this order.

    The layer computes as in training. It must have no state that training
    changes: the examples of a task are seen again in every step.

    Attributes:
        layer: The layer.

    Raises:
        ValueError: If the layer cannot be called like this, or computes in
            float16.
    """

    layer: keras.Layer

    def __post_init__(self) -> None:
        _check_arguments(self.layer)
        half = [x.name for x in self.layers if x.compute_dtype == "float16"]
        if half:
            raise ValueError(
                "A loss must not compute in float16, where its gradients "
                f"underflow unscaled. Received: the layers {half}. Use the "
                "dtype policy 'float32'."
            )

    @property
    def name(self) -> str:
        """What errors call the loss."""
        return self.layer.name

    @property
    def layers(self) -> list[keras.Layer]:
        """The layer and all layers in it."""
        return self.layer._flatten_layers()

    @property
    def variables(self) -> list[keras.Variable]:
        """What the loss can learn."""
        return self.layer.trainable_variables

    @functools.cached_property
    def takes_features(self) -> bool:
        """Whether the layer gets the features of the examples."""
        inputs = _inputs(self.layer)
        if inputs is not None:
            return len(inputs) == 3
        return _FEATURES in inspect.signature(self.layer.call).parameters

    def build(self, predictions: keras.KerasTensor, features: Any) -> None:
        """Creates the weights, if there are none yet.

        Args:
            predictions: Stands for predictions, and for labels.
            features: Stand for the features of the examples.
        """
        if not self.layer.built:
            self._call_layer(
                predictions, predictions, *[features] * self.takes_features
            )

    def __call__(
        self,
        y_true: tf.Tensor,
        y_pred: Any,
        features: Any = None,
        weights: Sequence[tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """Returns losses, `[n, ...]`, or one number.

        Args:
            y_true: Labels, `[n, ...]`.
            y_pred: Predictions, `[n, ...]`.
            features: The inputs of the model, nested, each `[n, ...]`.
            weights: Values of `variables`; by default their own.

        Raises:
            ValueError: If the layer changes a state, adds losses or has a
                second derivative that TensorFlow gets wrong.
        """
        if weights is None:
            weights = [tf.convert_to_tensor(v.value) for v in self.variables]
        scope = keras.StatelessScope(
            zip(self.variables, weights, strict=True), collect_losses=True
        )
        with refuse_wrong_derivatives(True, True, self.layers):
            with scope:
                values = self._call_layer(
                    y_true, y_pred, *[features] * self.takes_features
                )
            self._refuse_side_effects(scope)
        if not isinstance(values, tf.Tensor):
            # `InnerLoss` says what is wrong.
            return values
        return at_least_float32(values)

    def _call_layer(self, *arguments):
        if _inputs(self.layer) is not None:
            return self.layer(list(arguments), training=True)
        return self.layer(*arguments, training=True)

    def _refuse_side_effects(self, scope: keras.StatelessScope) -> None:
        changed = [
            v.path
            for v in self.layer.non_trainable_variables
            if scope.get_current_value(v) is not None
        ]
        if changed:
            raise ValueError(
                f"The loss '{self.name}' must compute the same whenever it "
                "is called with the same labels and predictions. Received: a "
                f"layer that changes {changed} in training. Remove batch "
                "normalization, dropout and other layers with a state, or "
                "freeze them (trainable = False)."
            )
        if scope.losses:
            raise ValueError(
                f"The loss '{self.name}' must return all that counts. "
                f"Received: a layer that adds {len(scope.losses)} losses of "
                "its own (by `add_loss` or an activity regularizer). Add "
                "them to what its `call` returns."
            )


def are_class_numbers(y_true: tf.TensorShape, y_pred: tf.TensorShape) -> bool:
    """Whether labels lack the axis of classes that the predictions have.

    Args:
        y_true: Shape of the labels. They may have an axis of size 1 instead.
        y_pred: Shape of the predictions.
    """
    if None in (y_true.rank, y_pred.rank) or y_pred.rank < 2:
        return False
    if y_pred[-1] in (None, 1):
        return False
    alike = y_pred[:-1]
    return y_true.is_compatible_with(alike) or (
        y_true.rank == y_pred.rank
        and y_true[-1] == 1
        and y_true[:-1].is_compatible_with(alike)
    )


def labels_like(
    y_pred: tf.Tensor, y_true: tf.Tensor, argument: str
) -> tf.Tensor:
    """Returns labels of the shape and type of the predictions.

    Class numbers become one-hot, and NaN where there is no such class. A
    last axis of size 1 is added or dropped.

    Args:
        y_pred: Predictions.
        y_true: Labels.
        argument: What errors call the labels.

    Raises:
        ValueError: If the labels do not fit.
    """
    labels, predictions = y_true.shape, y_pred.shape
    if are_class_numbers(labels, predictions):
        if labels.rank == predictions.rank:
            y_true = tf.squeeze(y_true, -1)
        return _one_hot(y_true, predictions[-1], y_pred.dtype)
    y_true = tf.cast(y_true, y_pred.dtype)
    if labels.is_compatible_with(predictions):
        return y_true
    if labels.is_compatible_with([*predictions, 1]):
        return tf.squeeze(y_true, -1)
    if [*labels, 1] == [*predictions] or (
        predictions[-1] == 1 and labels.is_compatible_with(predictions[:-1])
    ):
        return y_true[..., tf.newaxis]
    raise ValueError(
        "A loss that is a layer needs labels of the predictions' shape, or "
        f"class numbers. Received: {argument}.shape={labels} for predictions "
        f"of the shape {predictions}. Reshape the labels, or pass a function "
        "of (y_true, y_pred) that calls the layer."
    )


def _one_hot(numbers: tf.Tensor, ways: int, dtype: tf.DType) -> tf.Tensor:
    if numbers.dtype.is_bool:
        numbers = tf.cast(numbers, tf.int32)
    index = tf.cast(numbers, tf.int32)
    is_class = tf.equal(tf.cast(index, numbers.dtype), numbers)
    is_class &= (index >= 0) & (index < ways)
    rows = tf.one_hot(index, ways, dtype=dtype)
    return tf.where(is_class[..., tf.newaxis], rows, float("nan"))


def _inputs(layer: keras.Layer) -> list[keras.KerasTensor] | None:
    """Returns the inputs of a functional model, `None` of other layers."""
    if isinstance(layer, keras.Sequential):
        return None
    inputs = getattr(layer, "inputs", None)
    return inputs if isinstance(inputs, list) else None


def _check_arguments(layer: keras.Layer) -> None:
    inputs = _inputs(layer)
    if inputs is not None:
        fits = len(inputs) in (2, 3)
    else:
        fits = not isinstance(layer, keras.Sequential) and _takes_two(layer)
    if not fits:
        raise ValueError(
            "A layer is a loss if it can be called with (y_true, y_pred). "
            f"Received: {describe(layer)}. Subclass keras.layers.Layer with "
            "`call(self, y_true, y_pred)`, or give a functional model these "
            "two inputs."
        )


def _takes_two(layer: keras.Layer) -> bool:
    names = list(inspect.signature(layer.call).parameters)
    try:
        inspect.signature(layer.call).bind(None, None)
    except TypeError:
        # The features may have no default.
        return len(names) == 3 and names[2] == _FEATURES
    return names[1:2] not in (["training"], ["mask"])
