"""One weight for each training example."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_meta.checks import check_positive
from keras_meta.hyperparameters.hyperparameter import Hyperparameter


@keras.saving.register_keras_serializable("keras_meta")
class ExampleWeights(Hyperparameter):
    """How much each training example counts.

    A `HyperparameterLearner` multiplies the training loss of each example by
    its weight. Examples that do harm on the validation data lose theirs, so
    that the lowest weights tell which labels are wrong.

    Args:
        count: Number of training examples.
        initial: The first weight of all examples.
        maximum: The largest weight, which is never reached, or `None` for
            weights of any size.
        **kwargs: Further arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
    >>> weights = ExampleWeights(3)
    >>> weights.assign([0.9, 0.1, 0.4])
    >>> weights.most_suspicious()
    array([1, 2, 0])

    References:
        - [Franceschi et al., 2017](https://arxiv.org/abs/1703.01785), section
          5.1.
    """

    def __init__(
        self,
        count: int,
        initial: float = 0.5,
        *,
        maximum: float | None = 1.0,
        **kwargs: Any,
    ):
        check_positive(count=count)
        super().__init__(
            np.full([count], initial), minimum=0.0, maximum=maximum, **kwargs
        )
        self.count = int(count)
        self.initial = initial

    def of(self, index: tf.Tensor) -> tf.Tensor:
        """Returns the weights of some examples, of the shape of `index`.

        Args:
            index: Their numbers, from 0 on.
        """
        raw = tf.convert_to_tensor(self.raw)
        return self._within_bounds(tf.gather(raw, index))

    def most_suspicious(self, count: int | None = None) -> np.ndarray:
        """Returns the numbers of examples, those of least weight first.

        Args:
            count: How many; by default all.
        """
        return np.argsort(self.numpy(), kind="stable")[:count]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = super().get_config()
        # The file of a learner holds the weights.
        del config["value"], config["minimum"]
        return {**config, "count": self.count, "initial": self.initial}
