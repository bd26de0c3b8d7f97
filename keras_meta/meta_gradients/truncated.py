"""Gradients that go back through windows of a run."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from keras_meta.checks import check_positive
from keras_meta.checks import describe
from keras_meta.inner.inner_loop import InnerLoop
from keras_meta.inner.solver import Carry
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.meta_gradients.unrolled import Unrolled
from keras_meta.update_rules.update_rule import UpdateRule


@keras.saving.register_keras_serializable("keras_meta")
@dataclasses.dataclass(frozen=True)
class Truncated(MetaGradient):
    """Differentiates windows of a long run, one after another.

    A run of `T` steps is cut into windows of `length` steps. The gradient of
    the losses in a window goes back to its first step,

        sum over t in the window of dL(p[t], theta) / dtheta,

    where the parameters before the window count as constants, and the
    meta-parameters learn after each window.

    Memory grows with `length` instead of `T`, and there are many meta-steps
    a run. It is biased: it does not see what theta does to losses beyond a
    window, which favours short horizons, such as learning rates that are too
    small. Persistent or noise-reuse evolution strategies have no such bias.
    An initialization acts through the first window alone, so learners of an
    initialization refuse windows that are shorter than their inner loop.

    Args:
        length: Steps of a window.
        through: How the gradient goes back through a window: `Unrolled()` or
            `FirstOrder()`, with their options.

    Raises:
        ValueError: If `length` is not positive.
        TypeError: If `through` is not one of the two.

    Example:
    >>> import keras_meta
    >>> meta_gradient = keras_meta.Truncated(20, keras_meta.FirstOrder())

    References:
        - [Werbos, 1990](https://doi.org/10.1109/5.58337).
        - [Wu et al., 2018](https://arxiv.org/abs/1803.02021), for the bias.
    """

    length: int = 20
    through: MetaGradient = Unrolled()

    def __post_init__(self) -> None:
        check_positive(length=self.length)
        through = self.through
        if not isinstance(through, MetaGradient) or not (
            through.differentiates_steps and through.length is None
        ):
            raise TypeError(
                "`through` must be keras_meta.Unrolled() or "
                f"keras_meta.FirstOrder(). Received: {describe(through)}"
            )

    @property
    def takes_second_derivatives(self) -> bool:  # type: ignore[override]
        """Whether the gradients of the steps are differentiated again."""
        return self.through.takes_second_derivatives

    def check(self, rule: UpdateRule, steps: int | None = None) -> None:
        """Refuses windows of few-shot tasks; see `MetaGradient.check`."""
        super().check(rule, steps)
        if steps is not None:
            self._require_whole(steps)

    def solve(self, loop: InnerLoop) -> tuple[Carry, Any]:
        """Runs one window; see `MetaGradient.solve`."""
        self._require_whole(loop.steps)
        return self.through.solve(loop)

    def _require_whole(self, steps: int) -> None:
        if steps > self.length:
            raise ValueError(
                "A learned initialization acts through the first window "
                "alone, so `length` of the meta-gradient must be at least "
                f"`steps`. Received: steps={steps}, and meta_gradient={self}. "
                "Use longer windows, fewer steps, or "
                "keras_meta.Unrolled(checkpoint='sqrt'), which needs little "
                "memory for long loops."
            )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        through = keras.saving.serialize_keras_object(self.through)
        return {"length": self.length, "through": through}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Truncated:
        """Makes a meta-gradient from `get_config`'s dict."""
        through = keras.saving.deserialize_keras_object(config["through"])
        return cls(config["length"], through)
