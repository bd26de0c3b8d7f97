"""Learned update rules as Keras optimizers."""

from keras_meta.optimizers.hierarchical_rnn_optimizer import (
    HierarchicalRNNOptimizer,
)
from keras_meta.optimizers.learned_optimizer import LearnedOptimizer
from keras_meta.optimizers.lstm_optimizer import LSTMOptimizer
from keras_meta.optimizers.presets import preset_names

__all__ = [
    "HierarchicalRNNOptimizer",
    "LearnedOptimizer",
    "LSTMOptimizer",
    "preset_names",
]
