"""A learned loss as a loss of plain Keras."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_meta.checks import describe
from keras_meta.inner.layer_loss import LayerLoss
from keras_meta.inner.layer_loss import labels_like


@keras.saving.register_keras_serializable("keras_meta")
class LearnedLoss(keras.losses.Loss):
    """Makes a loss for `compile` of a layer that was learned as one.

    Training with it leaves the layer as it is, where `compile(loss=layer)`
    would train the layer too, to return as little as possible. Config and
    files hold the layer's weights.

    Labels have the shape of the predictions, up to a last axis of size 1, or
    are class numbers, which the layer gets one-hot.

    Args:
        layer: A built layer of `(y_true, y_pred)`, such as the `inner_loss`
            of a trained learner. It is shared, not copied.
        reduction: See `keras.losses.Loss`. Learners take the mean.
        name: Name of the loss.
        dtype: See `keras.losses.Loss`.

    Raises:
        TypeError: If `layer` is no layer.
        ValueError: If the layer is not built, or needs the features.

    Example:
    >>> import keras
    >>> import keras_meta
    >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> learner = keras_meta.MAML(
    ...     net, 0.1, inner_loss=keras_meta.LossNetwork()
    ... )
    >>> # ... train the learner, then use its loss for any model:
    >>> model = keras.Sequential([keras.Input([7]), keras.layers.Dense(1)])
    >>> model.compile("sgd", keras_meta.LearnedLoss(learner.inner_loss))
    """

    def __init__(
        self,
        layer: keras.Layer,
        reduction: str = "sum_over_batch_size",
        name: str = "learned_loss",
        dtype: Any = None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if not isinstance(layer, keras.Layer):
            raise TypeError(
                "`layer` must be a Keras layer of (y_true, y_pred). Received: "
                f"layer={describe(layer)}"
            )
        self._function = LayerLoss(layer)
        if self._function.takes_features:
            raise ValueError(
                "Keras gives a loss labels and predictions alone. Received: "
                f"layer={describe(layer)}, which takes the features too. Use "
                "it in an inner loop, or in a `compute_loss` of your own."
            )
        if not layer.built:
            raise ValueError(
                "`layer` must be built, as a loss makes no weights. Received: "
                f"layer={describe(layer)}, which is not. Call it once on "
                "labels and predictions."
            )
        self.layer = layer

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Returns losses, `[n, ...]`.

        Args:
            y_true: Labels, `[n, ...]`.
            y_pred: Predictions, `[n, ...]`.
        """
        if not keras.tree.is_nested(y_pred):
            y_pred = tf.convert_to_tensor(y_pred)
            y_true = labels_like(y_pred, tf.convert_to_tensor(y_true), "y_true")
        return self._function(y_true, y_pred)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, and the weights."""
        weights = map(keras.ops.convert_to_numpy, self.layer.weights)
        return {
            **super().get_config(),
            "dtype": self.dtype,
            "layer": keras.saving.serialize_keras_object(self.layer),
            "weights": [values.tolist() for values in weights],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LearnedLoss:
        """Makes a loss from `get_config`'s dict."""
        config = dict(config)
        layer = keras.saving.deserialize_keras_object(config.pop("layer"))
        weights = config.pop("weights")
        if len(layer.weights) != len(weights):
            raise ValueError(
                f"Layer '{layer.name}' ({type(layer).__name__}) has "
                f"{len(layer.weights)} weights when it is made from its "
                f"config, and {len(weights)} were saved. Give it a method "
                "`build(self, y_true_shape, y_pred_shape)` that makes and "
                "builds all it has."
            )
        layer.set_weights(list(map(np.asarray, weights)))
        return cls(layer, **config)
