"""The optimizer of Wichrowska et al."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_meta.optimizers.learned_optimizer import LearnedOptimizer
from keras_meta.update_rules.hierarchical_rnn import HierarchicalRNN


@keras.saving.register_keras_serializable("keras_meta")
class HierarchicalRNNOptimizer(LearnedOptimizer):
    """Trains a Keras model by recurrent networks on three levels.

    Its network has new weights, with which it trains nothing well, until they
    are meta-trained: take a trained one by `from_preset`, or train the rule
    by `keras_meta.OptimizerLearner`.

    Args:
        units: See `keras_meta.HierarchicalRNN`.
        time_scales: See `keras_meta.HierarchicalRNN`.
        initial_rate: See `keras_meta.HierarchicalRNN`.
        attention: See `keras_meta.HierarchicalRNN`. During `fit` the model
            is at the points where gradients are taken, where `weight_decay`
            and constraints act; at its end it has the parameters, unless a
            callback brings back weights of an earlier epoch, as
            `EarlyStopping(restore_best_weights=True)` does: those points.
        seed: See `keras_meta.HierarchicalRNN`.
        learning_rate: See `LearnedOptimizer`.
        name: Name of the optimizer.
        **kwargs: Further arguments of `keras.optimizers.Optimizer`.

    References:
        - [Wichrowska et al., 2017](https://arxiv.org/abs/1703.04813).
    """

    _rule_class = HierarchicalRNN
    _rule_arguments = (
        "units",
        "time_scales",
        "initial_rate",
        "attention",
        "seed",
    )

    def __init__(
        self,
        units: Sequence[int] = (10, 20, 20),
        *,
        time_scales: int = 4,
        initial_rate: float = 1e-3,
        attention: bool = False,
        seed: int | None = None,
        learning_rate: Any = 1.0,
        name: str = "hierarchical_rnn_optimizer",
        **kwargs,
    ):
        rule = HierarchicalRNN(
            units,
            time_scales=time_scales,
            initial_rate=initial_rate,
            attention=attention,
            seed=seed,
        )
        super().__init__(rule, learning_rate, name, **kwargs)
