"""A curriculum of increasingly long optimizations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from keras_meta.checks import describe
from keras_meta.checks import is_whole
from keras_meta.outer.optimizer_learner import OptimizerLearner


class LengthenUnroll(keras.callbacks.Callback):
    """Sets the number of steps that an `OptimizerLearner` trains on.

    Start with short optimizations, so that the rule is sane before it takes
    many steps.

    Args:
        steps: A dict from an epoch to the number of steps from that epoch on.
            Each number is a multiple of the learner's window, and at most the
            learner's own `steps`.

    Raises:
        ValueError: If epoch 0 is missing, if the model being trained is not
            an `OptimizerLearner`, or if it cannot train on one of the
            numbers.

    Example:
    >>> curriculum = LengthenUnroll({0: 20, 5: 60, 10: 100})
    """

    def __init__(self, steps: Mapping[int, int]):
        super().__init__()
        is_mapping = isinstance(steps, Mapping)
        if not is_mapping or not all(map(is_whole, steps)) or 0 not in steps:
            raise ValueError(
                "`steps` must be a dict from an epoch to the number of steps "
                "from that epoch on, and include epoch 0. Received: "
                f"steps={describe(steps)}. For example, pass {{0: 20, 5: 100}}."
            )
        self.steps = dict(steps)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Tries all numbers of steps, so that none fails after hours."""
        if not isinstance(self.model, OptimizerLearner):
            raise ValueError(
                "LengthenUnroll needs a keras_meta.OptimizerLearner. Received: "
                f"{type(self.model).__name__}"
            )
        for steps in self.steps.values():
            self.model.steps = steps

    def on_epoch_begin(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Sets the number of steps for the epoch."""
        latest = max(e for e in self.steps if e <= epoch)
        self.model.steps = self.steps[latest]
