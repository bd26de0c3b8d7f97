"""The LSTM optimizer of Andrychowicz et al."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_meta.optimizers.learned_optimizer import LearnedOptimizer
from keras_meta.update_rules.coordinatewise_lstm import CoordinatewiseLSTM


@keras.saving.register_keras_serializable("keras_meta")
class LSTMOptimizer(LearnedOptimizer):
    """Trains a Keras model with a small LSTM that all its weights share.

    The LSTM starts with random weights and trains nothing well before it is
    meta-trained. Load a trained one with `from_preset`, or train the rule with
    `keras_meta.OptimizerLearner`.

    Args:
        units: See `keras_meta.CoordinatewiseLSTM`.
        preprocessing: See `keras_meta.CoordinatewiseLSTM`.
        output_scale: See `keras_meta.CoordinatewiseLSTM`.
        seed: See `keras_meta.CoordinatewiseLSTM`.
        learning_rate: See `LearnedOptimizer`.
        name: Name of the optimizer.
        **kwargs: Further arguments of `keras.optimizers.Optimizer`.

    References:
        - [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474).
    """

    _rule_class = CoordinatewiseLSTM
    _rule_arguments = ("units", "preprocessing", "output_scale", "seed")

    def __init__(
        self,
        units: Sequence[int] = (20, 20),
        *,
        preprocessing: float | None = 10.0,
        output_scale: float = 0.01,
        seed: int | None = None,
        learning_rate: Any = 1.0,
        name: str = "lstm_optimizer",
        **kwargs: Any,
    ):
        rule = CoordinatewiseLSTM(
            units,
            preprocessing=preprocessing,
            output_scale=output_scale,
            seed=seed,
        )
        super().__init__(rule, learning_rate, name, **kwargs)
