"""Tests of `keras_meta.episodes`."""
