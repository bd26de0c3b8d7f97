"""The optimizer of Wichrowska et al."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_meta.optimizers.learned_optimizer import LearnedOptimizer
from keras_meta.update_rules.hierarchical_rnn import HierarchicalRNN


@keras.saving.register_keras_serializable("keras_meta")
class HierarchicalRNNOptimizer(LearnedOptimizer):
    """Trains a Keras model with recurrent networks on three levels.

    The networks start with random weights and train nothing well before they
    are meta-trained. Load trained ones with `from_preset`, or train the rule
    with `keras_meta.OptimizerLearner`.

    Args:
        units: See `keras_meta.HierarchicalRNN`.
        time_scales: See `keras_meta.HierarchicalRNN`.
        initial_rate: See `keras_meta.HierarchicalRNN`.
        attention: See `keras_meta.HierarchicalRNN`. During `fit`, the model
            holds the points where gradients are taken, and `weight_decay` and
            constraints act on these. When `fit` ends, the model holds the
            parameters, unless a callback such as
            `EarlyStopping(restore_best_weights=True)` restores the points of
            an earlier epoch.
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
        **kwargs: Any,
    ):
        rule = HierarchicalRNN(
            units,
            time_scales=time_scales,
            initial_rate=initial_rate,
            attention=attention,
            seed=seed,
        )
        super().__init__(rule, learning_rate, name, **kwargs)
