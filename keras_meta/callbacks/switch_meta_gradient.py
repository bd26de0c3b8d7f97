"""A schedule of meta-gradients over the epochs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_meta.checks import describe
from keras_meta.checks import is_whole
from keras_meta.learners.learner import Learner
from keras_meta.meta_gradients.get import as_meta_gradient
from keras_meta.meta_gradients.meta_gradient import MetaGradient


class SwitchMetaGradient(keras.callbacks.Callback):
    """Changes a learner's meta-gradient at given epochs.

    For example, early epochs can use first-order gradients, which are
    cheaper, and later epochs exact gradients.

    Args:
        meta_gradients: A dict from an epoch to the meta-gradient, an object or
            a name, from that epoch on.

    Raises:
        ValueError: If epoch 0 is missing, or if the model being trained is
            not a gradient-based meta-learner.
        TypeError: If an entry is not a meta-gradient.

    Example:
    >>> callback = SwitchMetaGradient({0: "first_order", 10: "unrolled"})

    References:
        - [Antoniou et al., 2019](https://arxiv.org/abs/1810.09502),
          section 4, derivative-order annealing.
    """

    def __init__(self, meta_gradients: Mapping[int, MetaGradient | str]):
        super().__init__()
        is_mapping = isinstance(meta_gradients, Mapping)
        is_by_epoch = is_mapping and all(map(is_whole, meta_gradients))
        if not is_by_epoch or 0 not in meta_gradients:
            raise ValueError(
                "`meta_gradients` must be a dict from an epoch to the "
                "meta-gradient from that epoch on, and include epoch 0. "
                f"Received: meta_gradients={describe(meta_gradients)}. For "
                'example, pass {0: "first_order", 10: "unrolled"}.'
            )
        self.meta_gradients = {
            epoch: as_meta_gradient(value)
            for epoch, value in meta_gradients.items()
        }

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks that the learner can use all of the meta-gradients."""
        if not isinstance(self.model, Learner):
            raise ValueError(
                "SwitchMetaGradient needs a gradient-based meta-learner such "
                f"as keras_meta.MAML. Received: {type(self.model).__name__}"
            )
        for meta_gradient in self.meta_gradients.values():
            self.model.check_meta_gradient(meta_gradient)

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Sets the meta-gradient for the epoch."""
        latest = max(e for e in self.meta_gradients if e <= epoch)
        meta_gradient = self.meta_gradients[latest]
        if self.model.meta_gradient != meta_gradient:
            self.model.meta_gradient = meta_gradient
