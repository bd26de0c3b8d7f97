import contextlib

import keras
import pytest


@contextlib.contextmanager
def computing_in(dtype):
    before = keras.config.floatx()
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    yield
    keras.config.set_floatx(before)
    keras.config.set_dtype_policy(before)


@pytest.fixture(scope="module")
def float64():
    """Computes in float64, where equal means equal to 1e-9."""
    with computing_in("float64"):
        yield


@pytest.fixture
def float32():
    """Computes in float32, in a module that does not otherwise."""
    with computing_in("float32"):
        yield
