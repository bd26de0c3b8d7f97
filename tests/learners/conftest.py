"""Fixtures of the learners' tests."""

import gc

import keras
import pytest


@pytest.fixture(scope="session", autouse=True)
def quick_garbage_collection():
    """Spares the collector what the imports made, a third of its time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def seed():
    keras.utils.set_random_seed(0)


@pytest.fixture
def float64():
    """Everything that Keras makes is double precision."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
