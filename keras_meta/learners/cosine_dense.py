"""A linear layer that sees directions alone."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.batching.layer_rules.registry import rule
from keras_meta.batching.task_scope import TaskScope
from keras_meta.checks import check_positive
from keras_meta.checks import check_positive_number
from keras_meta.learners.embedded.embeddings import unit


@keras.saving.register_keras_serializable("keras_meta")
class CosineDense(keras.layers.Layer):
    """Scores classes by cosines with learned vectors.

    The score of class `k` is `scale * norms[k] * cos(x, kernel[:, k])`. The
    norms are learned, so a class can have larger scores than another. The
    length of `x` does not count, so features of one class vary less than with
    `Dense`. It is the head of Baseline++, both of the classifier that trains
    an encoder and of the new classes.

    Args:
        units: Number of classes.
        scale: Factor of the scores, positive. The paper's code takes 2, or 10
            for more than 200 classes.
        **kwargs: See `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is not positive.

    Example:
    >>> import keras
    >>> import keras_meta
    >>> import numpy as np
    >>> head = keras_meta.CosineDense(2)
    >>> head.build([None, 3])
    >>> _ = head.kernel.assign([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    >>> keras.ops.convert_to_numpy(head(np.array([[5.0, 0.0, 0.0]]))).tolist()
    [[2.0, 0.0]]

    References:
        - [Chen et al., 2019](https://arxiv.org/abs/1904.04232), section 3.2,
          and the published code for the norms.
    """

    def __init__(self, units: int, scale: float = 2.0, **kwargs: Any):
        super().__init__(**kwargs)
        check_positive(units=units)
        check_positive_number(scale=scale)
        self.units = int(units)
        self.scale = float(scale)

    def build(self, input_shape: tuple[Any, ...]) -> None:
        """Creates a vector and a norm for each class."""
        shape = (input_shape[-1], self.units)
        self.kernel = self.add_weight(name="kernel", shape=shape)
        self.norms = self.add_weight(
            name="norms", shape=(self.units,), initializer="ones"
        )
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Returns the scores, `[..., units]`, of inputs `[..., d]`."""
        kernel, norms = map(tf.convert_to_tensor, (self.kernel, self.norms))
        return _scores(self, inputs, kernel, norms)

    def compute_output_shape(
        self, input_shape: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """Returns the shape of the scores."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = {"units": self.units, "scale": self.scale}
        return {**super().get_config(), **config}


@rule(CosineDense)
def _cosine_dense(
    layer: CosineDense, scope: TaskScope, inputs: tf.Tensor
) -> tf.Tensor:
    """Scores with vectors and norms of each task."""
    x = task_axis.split(inputs, scope.tasks)
    rows = tf.reshape(x, [scope.tasks, -1, x.shape[-1]])
    norms = scope.weight(layer.norms)[..., tf.newaxis, :]
    scores = _scores(layer, rows, scope.weight(layer.kernel), norms)
    lead = [task_axis.size(inputs, i) for i in range(inputs.shape.rank - 1)]
    return tf.reshape(scores, [*lead, layer.units])


def _scores(
    layer: CosineDense, x: tf.Tensor, kernel: tf.Tensor, norms: tf.Tensor
) -> tf.Tensor:
    return layer.scale * norms * tf.matmul(unit(x), unit(kernel, axis=-2))
