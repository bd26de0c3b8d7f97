"""The private names of Keras in use, checked with Keras 3.15.1."""

from keras.src.saving.serialization_lib import ObjectSharingScope

__all__ = ["ObjectSharingScope"]
