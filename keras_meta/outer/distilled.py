"""Examples that stand for a data set, and how a model trains on them."""

from __future__ import annotations

from typing import Any
from typing import NamedTuple

import keras
import numpy as np


class Distilled(NamedTuple):
    """A distilled data set: examples, and the recipe for using them.

    The examples are taken in their order, each group with its own rate, by
    plain gradient descent. Other orders and rates train worse models.

    Attributes:
        x: Inputs, `[steps, n, ...]`. A training step takes `n` of them.
        y: Labels, `[steps, n, ...]`.
        learning_rates: The rate of each training step, `[epochs, steps]`.

    Example:
    ```python
    # What `train` does.
    model.compile(keras.optimizers.SGD(), loss)
    for rates in distilled.learning_rates:
        for x, y, rate in zip(distilled.x, distilled.y, rates):
            model.optimizer.learning_rate = rate
            model.train_on_batch(x, y)
    ```
    """

    x: np.ndarray
    y: np.ndarray
    learning_rates: np.ndarray

    def train(self, model: keras.Model, loss: Any) -> keras.Model:
        """Trains a model on the examples, by plain Keras.

        Args:
            model: The model, which begins with the weights that it has. It
                is compiled anew.
            loss: The training loss, as `compile` takes it.

        Returns:
            The same model.
        """
        model.compile(keras.optimizers.SGD(), loss)
        for rates in self.learning_rates:
            for x, y, rate in zip(self.x, self.y, rates, strict=True):
                model.optimizer.learning_rate = rate
                model.train_on_batch(x, y)
        return model
