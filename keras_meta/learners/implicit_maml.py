"""MAML with implicit gradients."""

from __future__ import annotations

from typing import Any

import keras

from keras_meta.checks import check_positive_number
from keras_meta.learners.learner import Learner
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.update_rules.update_rule import UpdateRule


@keras.saving.register_keras_serializable("keras_meta")
class ImplicitMAML(Learner):
    """Learns an initialization by the implicit gradient of a minimum.

    The inner loop minimizes the support loss plus a proximal term,

        l(w) + proximal / 2 * |w - initialization|^2,

    and the meta-gradient depends on where it arrives, not on its steps: any
    number of them takes the same memory. Here the proximal term is part of
    every inner step, as the paper has it. Its published code takes one step
    on it at the end instead, and divides the Hessian by `proximal + 10`.

    The inner loop has to arrive at the minimum. Training logs
    `inner_gradient_norm`, what is left of the inner gradient, and
    `negative_curvature`, the share of tasks that are not at a minimum. It
    warns where they are too large. Choose the settings in this order:

    1. `proximal`, large enough that the proximal term outweighs where the
       support loss curves downwards. Otherwise `negative_curvature` is
       several percent, and training gets stuck. On sine waves 10 is enough
       and 2 is not.
    2. The rate, below `2 / (proximal + curvature)`. The curvature grows in
       training, as nothing in an implicit gradient depends on the rate.
       So leave a margin, which `Momentum` makes up for. If an inner loop
       diverges late in training, lower the rate.
    3. `steps`, so that `inner_gradient_norm` ends at .1 or less. Without
       momentum, `(1 - rate * proximal) ** steps` is left of the gradient
       where the support loss is flat.

    Test with as many steps as in training, or more; fewer leave tasks
    anywhere on the way. Choose `MAML` for few steps, or to learn rates.

    Args:
        model: See `Learner`.
        update_rule: See `Learner`. Its rates cannot be learned.
        steps: See `Learner`.
        proximal: Strength of the proximal term, positive. Large values keep
            tasks near the initialization, and make the inner loop easy. It
            counts in units of the support loss, by default a mean.
        meta_gradient: A `keras_meta.Implicit`, or another meta-gradient to
            compare it with.
        **kwargs: `evaluation_steps`, `adapt`, `inner_loss`, `start`,
            `batch_statistics`, `name`; see `Learner`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
    >>> import keras
    >>> import keras_meta
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> learner = keras_meta.ImplicitMAML(
    ...     model, 0.05, steps=25, meta_gradient=keras_meta.Implicit(steps=3)
    ... )
    >>> learner.compile("adam", "mse")

    References:
        - [Rajeswaran et al., 2019](https://arxiv.org/abs/1909.04630),
          algorithms 1 and 2.
    """

    def __init__(
        self,
        model: keras.Model,
        update_rule: UpdateRule | float = 0.1,
        steps: int = 16,
        *,
        proximal: float = 2.0,
        meta_gradient: MetaGradient | str = "implicit",
        **kwargs: Any,
    ):
        check_positive_number(proximal=proximal)
        super().__init__(
            model,
            update_rule,
            steps,
            proximal=proximal,
            meta_gradient=meta_gradient,
            **kwargs,
        )
