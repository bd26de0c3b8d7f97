"""A curriculum of longer and longer optimizations."""

from __future__ import annotations

from collections.abc import Mapping

import keras

from keras_meta.checks import describe
from keras_meta.checks import is_whole
from keras_meta.outer.optimizer_learner import OptimizerLearner


class LengthenUnroll(keras.callbacks.Callback):
    """Sets the number of steps that an `OptimizerLearner` trains on.

    Short optimizations first, so that the rule is sane before it is carried
    far.

    Args:
        steps: Steps from an epoch on, by the number of that epoch. Each is a
            multiple of the learner's window, and at most the `steps`
            it was made with.

    Raises:
        ValueError: If epoch 0 is missing, or if `fit` is of another model or
            one of the numbers does not fit it.

    Example:
    >>> curriculum = LengthenUnroll({0: 20, 5: 60, 10: 100})
    """

    def __init__(self, steps: Mapping[int, int]):
        super().__init__()
        is_mapping = isinstance(steps, Mapping)
        if not is_mapping or not all(map(is_whole, steps)) or 0 not in steps:
            raise ValueError(
                "`steps` must say by the number of an epoch how many steps to "
                "take from it on, and have an epoch 0. Received: "
                f"steps={describe(steps)}. Write {{0: 20, 5: 100}}, for "
                "instance."
            )
        self.steps = dict(steps)

    def on_train_begin(self, logs=None):
        """Tries all steps, so that none fails after hours."""
        if not isinstance(self.model, OptimizerLearner):
            raise ValueError(
                "LengthenUnroll needs a keras_meta.OptimizerLearner. Received: "
                f"{type(self.model).__name__}"
            )
        for steps in self.steps.values():
            self.model.steps = steps

    def on_epoch_begin(self, epoch, logs=None):
        """Sets the steps for the epoch that begins."""
        latest = max(e for e in self.steps if e <= epoch)
        self.model.steps = self.steps[latest]
