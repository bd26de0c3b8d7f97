"""Learned update rules as Keras optimizers."""

from keras_meta.optimizers.learned_optimizer import LearnedOptimizer
from keras_meta.optimizers.lstm_optimizer import LSTMOptimizer

__all__ = ["LearnedOptimizer", "LSTMOptimizer"]
