"""Plain models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


@keras.saving.register_keras_serializable("keras_meta")
class SamplesModel(keras.Model):
    """Predicts with several models of the same inputs.

    `adapt` of a `SamplingLearner` returns one. Its output is
    `[n, samples, ...]`, one sample for each model.

    Args:
        models: Built models with one output each.
        **kwargs: `name`; see `keras.Model`.

    Example:
    >>> import keras
    >>> import tensorflow as tf
    >>> models = [
    ...     keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    ...     for _ in range(3)
    ... ]
    >>> SamplesModel(models)(tf.zeros([5, 2])).shape
    TensorShape([5, 3, 1])
    """

    def __init__(self, models: Sequence[keras.Model], **kwargs: Any):
        super().__init__(**kwargs)
        self.models = list(models)
        self.built = True

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns the models' predictions, `[n, samples, ...]`."""
        outputs = [model(inputs, training=training) for model in self.models]
        return keras.ops.stack(outputs, axis=1)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        serialize = keras.saving.serialize_keras_object
        return {"name": self.name, "models": [*map(serialize, self.models)]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> SamplesModel:
        """Makes a model from `get_config`'s dict."""
        deserialize = keras.saving.deserialize_keras_object
        models = [deserialize(model) for model in config["models"]]
        return cls(**{**config, "models": models})
