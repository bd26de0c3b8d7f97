"""The negative log-likelihood of a Gaussian."""

from __future__ import annotations

import math
from typing import Any

import keras

from keras_meta.checks import check_positive_number

ops = keras.ops


@keras.saving.register_keras_serializable("keras_meta")
class GaussianNLL(keras.losses.Loss):
    """Negative log-likelihood of labels with Gaussian noise of known size.

    For each example, the mean over its outputs of

        ((label - prediction) / scale)^2 / 2 + log(scale) + log(2 pi) / 2

    in nats. It differs from half of the mean squared error by `1 / scale^2`
    and a constant, so the rate of an inner loop that suits the mean squared
    error has to be multiplied by `2 * scale^2`.

    Args:
        scale: Standard deviation of the noise, positive, in units of the
            labels.
        reduction: See `keras.losses.Loss`.
        name: See `keras.losses.Loss`.
        **kwargs: `dtype`; see `keras.losses.Loss`.

    Raises:
        ValueError: If `scale` is not a positive number.

    Example:
    >>> import keras_meta
    >>> loss = keras_meta.GaussianNLL(scale=0.5)
    >>> float(loss([[0.0]], [[1.0]]))  # 2 + log(0.5) + 0.9189...
    2.225791...
    """

    def __init__(
        self,
        scale: float,
        reduction: str = "sum_over_batch_size",
        name: str = "gaussian_nll",
        **kwargs: Any,
    ):
        check_positive_number(scale=scale)
        super().__init__(name=name, reduction=reduction, **kwargs)
        self.scale = float(scale)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Returns the loss of each example, `[n]`.

        Args:
            y_true: Labels, `[n, outputs]`.
            y_pred: Predictions, `[n, outputs]`.
        """
        y_pred = ops.convert_to_tensor(y_pred)
        y_true = ops.cast(y_true, y_pred.dtype)
        squares = ops.square((y_true - y_pred) / self.scale) / 2
        constant = math.log(self.scale) + math.log(2 * math.pi) / 2
        return ops.mean(squares, axis=-1) + constant

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = super().get_config()
        return {**config, "scale": self.scale}
