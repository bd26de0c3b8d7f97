"""Tests of `keras_meta.callbacks`."""
