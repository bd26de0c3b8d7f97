"""Tests of `keras_meta.learners`."""
