"""The exact gradient of an unrolled inner loop."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from keras_meta.checks import check_choice
from keras_meta.inner.checkpoint import CHECKPOINTS
from keras_meta.inner.checkpoint import segment_length
from keras_meta.inner.inner_loop import InnerLoop
from keras_meta.inner.problem import Derivatives
from keras_meta.inner.solver import Carry
from keras_meta.meta_gradients.meta_gradient import MetaGradient


@keras.saving.register_keras_serializable("keras_meta")
@dataclasses.dataclass(frozen=True)
class Unrolled(MetaGradient):
    """Differentiates through all steps of the inner loop, exactly.

    With the steps `p[t + 1] = step(p[t], theta)` it computes

        dL(p[T], theta) / dtheta

    by backpropagation through all `T` steps, their gradients included, which
    takes second derivatives.

    It takes about three times as long as the inner loop. Its memory grows
    with the number of steps, or with the square root of it where segments
    are computed twice. Where an inner loop converges, `Implicit` needs no
    memory for its steps; where it is long and chaotic, gradients explode and
    evolution strategies are the better choice.

    Args:
        checkpoint: What is kept of the inner loop for the gradient: `"off"`,
            all that every step computes; `"step"`, the parameters between
            the steps, which are computed twice; `"sqrt"`, those between
            about `sqrt(steps)` segments; `"auto"`, off up to 32 steps and
            `"sqrt"` beyond. The gradient is the same.

    Raises:
        ValueError: If `checkpoint` is not one of these choices.

    Example:
    >>> import keras_meta
    >>> meta_gradient = keras_meta.Unrolled(checkpoint="sqrt")

    References:
        - [Finn et al., 2017](https://arxiv.org/abs/1703.03400), section 2.2.
    """

    checkpoint: str = "auto"

    def __post_init__(self) -> None:
        check_choice("checkpoint", self.checkpoint, CHECKPOINTS)

    def solve(self, loop: InnerLoop) -> tuple[Carry, Any]:
        """Runs the inner loop; see `MetaGradient.solve`."""
        segment = segment_length(self.checkpoint, loop.steps)
        return loop.run(Derivatives.SECOND, segment)
