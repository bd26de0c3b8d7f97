"""Keras callbacks for meta-learners."""

from keras_meta.callbacks.anneal_step_weights import AnnealStepWeights
from keras_meta.callbacks.switch_to_second_order import SwitchToSecondOrder

__all__ = ["AnnealStepWeights", "SwitchToSecondOrder"]
