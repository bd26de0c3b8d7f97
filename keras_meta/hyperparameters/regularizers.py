"""Regularizers of weights whose strength is learned."""

from __future__ import annotations

import abc
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_positive_number
from keras_meta.checks import describe
from keras_meta.checks import is_number
from keras_meta.hyperparameters.hyperparameter import Hyperparameter


class LearnedRegularizer(keras.regularizers.Regularizer, abc.ABC):
    """Base of regularizers whose strength is a hyperparameter.

    Args:
        strength: A `Hyperparameter`, a scalar or one strength for each
            weight, or a positive number that a new one begins with. What has
            the same `Hyperparameter` shares it.
        name: Name of the new one.

    Raises:
        TypeError: If `strength` is neither.
        ValueError: If a number is not positive.
    """

    def __init__(
        self, strength: Hyperparameter | float, name: str | None = None
    ):
        if is_number(strength):
            check_positive_number(strength=strength)
            strength = Hyperparameter(strength, minimum=0.0, name=name)
        elif not isinstance(strength, Hyperparameter):
            raise TypeError(
                "`strength` must be a keras_meta.Hyperparameter or a positive "
                f"number. Received: strength={describe(strength)}"
            )
        self.strength = strength

    @property
    def hyperparameters(self) -> list[Hyperparameter]:
        """What a `HyperparameterLearner` learns of the regularizer."""
        return [self.strength]

    def __call__(self, x: Any) -> tf.Tensor:
        """Returns the penalty of weights, a scalar.

        Args:
            x: The weights.
        """
        x = tf.convert_to_tensor(x)
        strength = tf.cast(self.strength(), x.dtype)
        return tf.reduce_sum(strength * self.penalty(x))

    @abc.abstractmethod
    def penalty(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the penalty of each weight at the strength 1."""

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {"strength": keras.saving.serialize_keras_object(self.strength)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> LearnedRegularizer:
        """Makes a regularizer from `get_config`'s dict."""
        return cls(keras.saving.deserialize_keras_object(config["strength"]))


@keras.saving.register_keras_serializable("keras_meta")
class LearnedL2(LearnedRegularizer):
    """`sum(strength * weights ** 2)` with a strength that is learned.

    Args:
        strength: A `Hyperparameter`, a scalar or one strength for each
            weight, or a positive number that a new one begins with.
        name: Name of the new one.

    Example:
    >>> import keras_meta
    >>> decay = keras_meta.Hyperparameter(1e-4, minimum=0.0, name="decay")
    >>> one_for_all = [
    ...     keras.layers.Dense(9, kernel_regularizer=LearnedL2(decay)),
    ...     keras.layers.Dense(9, kernel_regularizer=LearnedL2(decay)),
    ... ]
    >>> one_each = [
    ...     keras.layers.Dense(9, kernel_regularizer=LearnedL2(1e-4)),
    ...     keras.layers.Dense(9, kernel_regularizer=LearnedL2(1e-4)),
    ... ]
    """

    def penalty(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the squares."""
        return tf.square(x)


@keras.saving.register_keras_serializable("keras_meta")
class LearnedL1(LearnedRegularizer):
    """`sum(strength * |weights|)` with a strength that is learned.

    Args:
        strength: See `LearnedL2`.
        name: See `LearnedL2`.
    """

    def penalty(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the absolute values."""
        return tf.abs(x)
