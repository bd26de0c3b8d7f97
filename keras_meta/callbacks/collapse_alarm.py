"""An alarm for architecture searches that go wrong."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from keras_meta.checks import check_bool
from keras_meta.checks import describe
from keras_meta.checks import is_finite_number
from keras_meta.outer.architecture_search import ArchitectureSearch


class CollapseAlarm(keras.callbacks.Callback):
    """Warns of an `ArchitectureSearch` that collapses or stays undecided.

    A search collapses if it chooses skip connections more and more: they need
    no training, so they look best while other operations learn. It stays
    undecided if the mixtures remain even: then `derive` chooses by chance,
    and the derived network has little to do with the mixture.

    Args:
        max_skips: Fraction of the choices that may be skip connections.
        max_entropy: Mean entropy that the mixtures may have at the end, as a
            fraction of the largest possible.
        stop: Whether to stop training at too many skips.

    Raises:
        ValueError: If an argument is out of range, or if the model being
            trained is not an `ArchitectureSearch`.

    Example:
    >>> alarm = CollapseAlarm(max_skips=0.3, stop=True)

    References:
        - [Liang et al., 2019](https://arxiv.org/abs/1909.06035), who stop
          at more than one skip in a cell.
    """

    def __init__(
        self,
        max_skips: float = 0.5,
        max_entropy: float = 0.95,
        stop: bool = False,
    ):
        super().__init__()
        check_bool(stop=stop)
        limits = {"max_skips": max_skips, "max_entropy": max_entropy}
        for name, limit in limits.items():
            if not is_finite_number(limit) or not 0 <= limit <= 1:
                raise ValueError(
                    f"`{name}` must be a number from 0 to 1. Received: "
                    f"{name}={describe(limit)}"
                )
        self.max_skips = max_skips
        self.max_entropy = max_entropy
        self.stop = bool(stop)
        self._has_warned = False
        self._entropy = 0.0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Checks what is trained."""
        if not isinstance(self.model, ArchitectureSearch):
            raise ValueError(
                "CollapseAlarm needs a keras_meta.ArchitectureSearch. "
                f"Received: {type(self.model).__name__}"
            )
        self._has_warned = False

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Looks at what is chosen."""
        logs = logs or {}
        self._entropy = logs.get("entropy", self._entropy)
        skips, choices = logs.get("skips", 0.0), len(self.model.choices)
        if skips <= self.max_skips * choices:
            return
        if self.stop:
            self.model.stop_training = True
        if not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"After epoch {epoch + 1}, {skips:.0f} of {choices} choices "
                "are skip connections: the search collapses. Stop it earlier, "
                "regularize the weights more, or lower the learning rate of "
                "the architecture.",
                stacklevel=2,
            )

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Looks at how sure the choices are."""
        if self._entropy > self.max_entropy:
            warnings.warn(
                f"The search ends with a mean entropy of {self._entropy:.3f} "
                "of the largest possible: the mixtures are almost even, and "
                "what `derive` chooses is little better than chance. Search "
                "longer, or raise the learning rate of the architecture.",
                stacklevel=2,
            )
