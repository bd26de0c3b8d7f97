"""Keras callbacks for meta-learners."""

from keras_meta.callbacks.anneal_step_weights import AnnealStepWeights
from keras_meta.callbacks.collapse_alarm import CollapseAlarm
from keras_meta.callbacks.lengthen_unroll import LengthenUnroll
from keras_meta.callbacks.switch_meta_gradient import SwitchMetaGradient
from keras_meta.callbacks.task_evaluation import TaskEvaluation

__all__ = [
    "AnnealStepWeights",
    "CollapseAlarm",
    "LengthenUnroll",
    "SwitchMetaGradient",
    "TaskEvaluation",
]
