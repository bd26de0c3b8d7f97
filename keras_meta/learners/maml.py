"""Model-agnostic meta-learning."""

from __future__ import annotations

from keras_meta.learners.learner import Learner
import keras

@keras.saving.register_keras_serializable("keras_meta")
class MAML(Learner):
    """MAML."""
