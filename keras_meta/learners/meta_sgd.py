"""Meta-SGD."""

from __future__ import annotations

from typing import Any

import keras

from keras_meta.checks import as_seed
from keras_meta.learners.maml import MAML
from keras_meta.update_rules.gradient_descent import GradientDescent


@keras.saving.register_keras_serializable("keras_meta")
class MetaSGD(MAML):
    """MAML that also learns a rate for every parameter.

    The rates are learned with the initialization and may become negative,
    so both the direction and the length of the step are learned.

    Args:
        model: See `MAML`.
        learning_rate: Initial rates, a number or a Keras initializer; drawn
            from U[0.005, 0.1] by default, as published.
        steps: See `MAML`.
        seed: Seed of the default initial rates.
        **kwargs: Further arguments of `MAML`.

    Example:
    ```python
    learner = keras_meta.MetaSGD(model)
    ```

    References:
        - [Li et al., 2017](https://arxiv.org/abs/1707.09835), algorithm 1.
    """

    def __init__(
        self,
        model: keras.Model,
        learning_rate: float | keras.initializers.Initializer | None = None,
        steps: int = 1,
        *,
        seed: int | None = None,
        **kwargs: Any,
    ):
        if learning_rate is None:
            learning_rate = keras.initializers.RandomUniform(
                0.005, 0.1, seed=as_seed(seed)
            )
        rule = GradientDescent(learning_rate, learn="parameter")
        super().__init__(model, rule, steps, **kwargs)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = super().get_config()
        del config["update_rule"]
        rate = self.update_rule.learning_rate
        if not isinstance(rate, float):
            rate = keras.saving.serialize_keras_object(rate)
        return {**config, "learning_rate": rate}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MetaSGD:
        """Makes a learner from `get_config`'s dict."""
        config = dict(config)
        if isinstance(config.get("learning_rate"), dict):
            config["learning_rate"] = keras.saving.deserialize_keras_object(
                config["learning_rate"]
            )
        return super().from_config(config)
