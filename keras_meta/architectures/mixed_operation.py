"""A layer that stands for a choice among layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_meta.architectures.zero import Zero
from keras_meta.checks import describe
from keras_meta.hyperparameters.hyperparameter import Hyperparameter


@keras.saving.register_keras_serializable("keras_meta")
class MixedOperation(keras.layers.Layer):
    """A mixture of candidate layers, whose shares are learned.

    Returns `sum_i softmax(logits)[i] * candidates[i](inputs)`. The logits are
    a `Hyperparameter`: an `ArchitectureSearch` learns them from validation
    data, while the candidates' weights learn from training data. Afterwards
    `derive` replaces the mixture by its strongest candidate.

    Candidates take one input and return one tensor, all of the same shape.
    Use `keras.layers.Identity()` for a skip connection, and `Zero()` for no
    connection. Operations of several layers are a `keras.Sequential`. Begin
    them with an activation and end them with batch normalization without
    scale and center, so that no candidate can grow its share of the output
    by weights.

    Args:
        candidates: The layers, each with a name of its own.
        logits: A `Hyperparameter` with one number for each candidate, to
            share a choice among several mixed operations, as among cells; by
            default a new one that begins at zeros.
        **kwargs: Further arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        TypeError: If candidates are no layers, or `logits` no hyperparameter.
        ValueError: If there are no candidates, two have one name, `logits`
            has another shape, or the outputs differ in shape.

    Example:
    >>> import keras_meta
    >>> x = keras.Input([28, 28, 8])
    >>> mixed = keras_meta.MixedOperation(
    ...     [
    ...         keras_meta.Zero(name="none"),
    ...         keras.layers.Identity(name="skip"),
    ...         keras.layers.Conv2D(8, 3, padding="same", name="conv3"),
    ...     ],
    ...     name="edge",
    ... )
    >>> model = keras.Model(x, mixed(x))
    >>> mixed.shares
    {'none': 0.333..., 'skip': 0.333..., 'conv3': 0.333...}

    References:
        - [Liu et al., 2019](https://arxiv.org/abs/1806.09055), equation 2.
    """

    def __init__(
        self,
        candidates: Sequence[keras.Layer],
        logits: Hyperparameter | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.candidates = _checked(candidates)
        if logits is None:
            logits = Hyperparameter(
                np.zeros([len(self.candidates)]), name=f"{self.name}_logits"
            )
        self.logits = _checked_logits(logits, len(self.candidates))

    @property
    def hyperparameters(self) -> list[Hyperparameter]:
        """What a learner learns of the layer: the logits."""
        return [self.logits]

    @property
    def shares(self) -> dict[str, float]:
        """Shares of the candidates in the mixture, by their names."""
        shares = tf.nn.softmax(self.logits()).numpy()
        names = [candidate.name for candidate in self.candidates]
        return dict(zip(names, shares.tolist(), strict=True))

    @property
    def entropy(self) -> tf.Tensor:
        """Entropy of the shares, as a fraction of the largest possible.

        It is 1 if all candidates have the same share, and 0 if one has all.
        """
        logits = self.logits()
        shares, logs = tf.nn.softmax(logits), tf.nn.log_softmax(logits)
        # The logarithm of a share of 0 may be infinite.
        entropy = -tf.reduce_sum(tf.math.multiply_no_nan(logs, shares))
        return entropy / math.log(max(len(self.candidates), 2))

    def strongest(self) -> tf.Tensor:
        """Returns the number of the strongest candidate but `Zero`, a scalar.

        Of equal ones it is the first. `Zero` is chosen only if there is
        nothing else.
        """
        connects = [not isinstance(c, Zero) for c in self.candidates]
        logits = self.logits()
        if any(connects):
            logits = tf.where(connects, logits, -np.inf)
        return tf.argmax(logits)

    def build(self, input_shape: Any) -> None:
        """Builds the candidates."""
        inputs = keras.KerasTensor(input_shape, dtype=self.compute_dtype)
        outputs = {c.name: c(inputs) for c in self.candidates}
        shapes = {
            name: keras.tree.map_structure(lambda x: tuple(x.shape), output)
            for name, output in outputs.items()
        }
        if len({*map(repr, shapes.values())}) > 1:
            raise ValueError(
                "The candidates of a MixedOperation must return outputs of "
                f"one shape. Received: name={self.name!r}, inputs of shape "
                f"{tuple(input_shape)}, and outputs of the shapes {shapes}. "
                "Use padding='same' and the same strides, and a 1 x 1 "
                "convolution for another number of channels."
            )

    def call(self, inputs: Any) -> Any:
        """Returns the mixture of the candidates' outputs."""
        shares = tf.unstack(tf.nn.softmax(self.logits()))
        outputs = [candidate(inputs) for candidate in self.candidates]
        return tf.add_n(
            [
                tf.cast(share, output.dtype) * output
                for share, output in zip(shares, outputs, strict=True)
            ]
        )

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns the shape that all candidates return."""
        return self.candidates[0].compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, with the present logits."""
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "candidates": [serialize(c) for c in self.candidates],
            "logits": serialize(self.logits),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MixedOperation:
        """Makes a layer from `get_config`'s dict."""
        deserialize = keras.saving.deserialize_keras_object
        return cls(
            **{
                **config,
                "candidates": [deserialize(c) for c in config["candidates"]],
                "logits": deserialize(config["logits"]),
            }
        )


def mixed_operations(model: keras.Layer) -> list[MixedOperation]:
    """Returns the mixed operations of a layer or model, itself included."""
    layers = model._flatten_layers()
    return [layer for layer in layers if isinstance(layer, MixedOperation)]


def _checked(candidates: Any) -> list[keras.Layer]:
    is_list = isinstance(candidates, (list, tuple))
    if not is_list or not all(isinstance(c, keras.Layer) for c in candidates):
        raise TypeError(
            "`candidates` must be a list of Keras layers. Received: "
            f"candidates={describe(candidates)}. Wrap a function in "
            "keras.layers.Lambda, or better in a layer of your own."
        )
    names = [c.name for c in candidates]
    if not names or len({*names}) < len(names):
        raise ValueError(
            "`candidates` must be at least one layer, and each needs a name "
            f"of its own. Received: candidates with the names {names}. Pass "
            "`name=` to the layers."
        )
    return [*candidates]


def _checked_logits(logits: Any, count: int) -> Hyperparameter:
    if not isinstance(logits, Hyperparameter):
        raise TypeError(
            "`logits` must be a keras_meta.Hyperparameter. Received: logits="
            f"{describe(logits)}"
        )
    shape = tuple(logits.raw.shape)
    if shape != (count,):
        raise ValueError(
            "`logits` must have one number for each candidate, the shape "
            f"({count},). Received: a Hyperparameter of shape {shape}."
        )
    return logits
