"""Almost no inner loop."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras

from keras_meta.learners.maml import MAML
from keras_meta.update_rules.update_rule import UpdateRule


@keras.saving.register_keras_serializable("keras_meta")
class ANIL(MAML):
    """MAML whose inner loop adapts the head alone.

    The body is shared by all tasks: it is called once for all of them and
    learned by the outer loop.

    Args:
        model: See `MAML`.
        update_rule: See `MAML`.
        steps: See `MAML`.
        adapt: See `MAML`; the last layer that has weights by default.
        **kwargs: Further arguments of `MAML`.

    References:
        - [Raghu et al., 2020](https://arxiv.org/abs/1909.09157), section 4.
    """

    def __init__(
        self,
        model: keras.Model,
        update_rule: UpdateRule | float = 0.01,
        steps: int = 1,
        *,
        adapt: str | Sequence | Callable[[keras.Variable], bool] = "head",
        **kwargs: Any,
    ):
        super().__init__(model, update_rule, steps, adapt=adapt, **kwargs)
