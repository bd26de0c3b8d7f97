"""Annealing from the multi-step loss to the last step's loss."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_meta.checks import check_decay
from keras_meta.checks import check_positive


class AnnealStepWeights(keras.callbacks.Callback):
    """Shifts the weights of a multi-step loss to the last step.

    All steps start with the same weight. Over `epochs` epochs, the weights of
    the earlier steps fall linearly to a small rest, and the last step gains
    what they lose.

    Args:
        epochs: Number of epochs until the rest is reached.
        rest: Final weight of the earlier steps, as a fraction of their initial
            weight. MAML++'s code uses 0.03.

    Raises:
        ValueError: If an argument is out of range, or if the learner being
            trained has no multi-step loss.

    References:
        - [Antoniou et al., 2019](https://arxiv.org/abs/1810.09502),
          section 4, multi-step loss optimization.
    """

    def __init__(self, epochs: int, rest: float = 0.03):
        super().__init__()
        check_positive(epochs=epochs)
        check_decay(rest=rest)
        self.epochs = epochs
        self.rest = rest

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Sets the weights for the epoch."""
        if getattr(self.model, "step_weights", None) is None:
            raise ValueError(
                "AnnealStepWeights needs a learner with a multi-step loss: "
                "pass step_weights='uniform' to keras_meta.MAML."
            )
        steps = self.model.steps
        fraction = max(1 - epoch / self.epochs, self.rest)
        weights = np.full(steps, fraction / steps)
        weights[-1] = 1 - weights[:-1].sum()
        self.model.step_weights.assign(weights)
