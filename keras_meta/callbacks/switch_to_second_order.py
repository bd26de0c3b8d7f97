"""Cheap first epochs."""

from __future__ import annotations

import keras

from keras_meta.checks import check_at_least
from keras_meta.learners.learner import Learner
from keras_meta.learners.reptile import Reptile


class SwitchToSecondOrder(keras.callbacks.Callback):
    """Trains with first-order meta-gradients up to an epoch.

    The first epochs drop second derivatives, which is cheaper; from `epoch`
    on the meta-gradient is exact.

    Args:
        epoch: The first epoch, counted from 0, with second derivatives.

    Raises:
        ValueError: If `epoch` is negative, or if `fit` is of another model
            than a meta-learner that can differentiate twice.

    References:
        - [Antoniou et al., 2019](https://arxiv.org/abs/1810.09502),
          section 4, derivative-order annealing.
    """

    def __init__(self, epoch: int):
        super().__init__()
        check_at_least(0, epoch=epoch)
        self.epoch = epoch

    def on_train_begin(self, logs=None):
        """Checks what is trained."""
        learner = self.model
        if not isinstance(learner, Learner) or isinstance(learner, Reptile):
            raise ValueError(
                "SwitchToSecondOrder needs a meta-learner that takes second "
                "derivatives, such as keras_meta.MAML. Received: "
                f"{type(learner).__name__}"
            )

    def on_epoch_begin(self, epoch, logs=None):
        """Sets the order for the epoch that begins."""
        first_order = epoch < self.epoch
        if self.model.first_order != first_order:
            self.model.first_order = first_order
            self.model.make_train_function(force=True)
