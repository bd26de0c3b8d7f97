"""Meta-learning for Keras: any Keras model learns to learn."""

from keras_meta.learners.maml import MAML
from keras_meta.update_rules.adam import Adam
from keras_meta.update_rules.gradient_descent import GradientDescent
from keras_meta.update_rules.momentum import Momentum
from keras_meta.version import __version__
