import keras
import pytest


@pytest.fixture(scope="module")
def float64():
    """Computes in float64, where equal means equal to 1e-9."""
    floatx = keras.config.floatx()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_dtype_policy(floatx)
