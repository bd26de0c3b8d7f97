"""The gradient that takes the inner gradients as constants."""

from __future__ import annotations

import dataclasses
from typing import Any
from typing import ClassVar

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
class FirstOrder(MetaGradient):
    """Takes the gradients of the inner steps as constants.

    An inner step is `p[t + 1] = update(p[t], g[t], theta)` with the gradient
    `g[t]` of the inner loss. Here `dg[t] / dp[t]` and `dg[t] / dtheta` count
    as zero. With gradient descent that leaves the gradient of the outer loss
    at the adapted parameters, `dL(p[T]) / dp[T]` (first-order MAML). Learned
    rates and learned rules still get the derivative of `update`.

    It takes about half the time of `Unrolled`. Do not choose it for what
    acts on the inner gradients alone, such as learned data: their gradient
    would be zero. A learned inner loss is refused for that reason. It is
    biased; the bias is small where steps are few and short.

    Args:
        checkpoint: See `Unrolled`, but `"auto"` keeps everything: without
            second derivatives a step needs little memory.

    Raises:
        ValueError: If `checkpoint` is not one of the choices.

    Example:
    >>> import keras_meta
    >>> meta_gradient = keras_meta.FirstOrder()

    References:
        - [Finn et al., 2017](https://arxiv.org/abs/1703.03400), section 5.2.
        - [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
          section 2.1, for learned rules.
    """

    takes_second_derivatives: ClassVar[bool] = False

    checkpoint: str = "auto"

    def __post_init__(self) -> None:
        check_choice("checkpoint", self.checkpoint, CHECKPOINTS)

    def solve(self, loop: InnerLoop) -> tuple[Carry, Any]:
        """Runs the inner loop; see `MetaGradient.solve`."""
        segment = None
        if self.checkpoint != "auto":
            segment = segment_length(self.checkpoint, loop.steps)
        return loop.run(Derivatives.FIRST, segment)
