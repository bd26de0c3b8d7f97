"""Meta-learning for Keras: any Keras model learns to learn."""

from keras_meta.version import __version__
