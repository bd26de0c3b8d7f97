"""Fixtures of all tests.

TensorFlow and Keras are imported where they are used: the process that only
hands out tests starts five seconds earlier without them.
"""

import contextlib
import gc

import pytest


@pytest.fixture(scope="session", autouse=True)
def _full_precision():
    """Keeps a GPU from rounding the inputs of float32 products to ten bits."""
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(False)


@contextlib.contextmanager
def computing_in(dtype):
    import keras

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


@pytest.fixture(scope="module", autouse=True)
def _nothing_old_is_collected_again():
    """Keeps what a module leaves behind out of later garbage collections.

    Keras and TensorFlow keep graphs. After some hundred tests each collection
    of the oldest generation would take ten seconds to find them all in use.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Makes the variants slow that `slow_variants` names.

    A name without a variant is a mistake, unless single variants were asked
    for.
    """
    known, named = {}, {}
    for item in items:
        for mark in item.iter_markers("slow_variants"):
            function = item.nodeid.partition("[")[0]
            named[function] = set(mark.args)
            known.setdefault(function, set()).add(item.callspec.id)
            if item.callspec.id in mark.args:
                item.add_marker(pytest.mark.slow)
    if any("[" in argument for argument in config.args):
        return
    for function, names in named.items():
        if unknown := names - known[function]:
            raise pytest.UsageError(
                f"{function}: `slow_variants` names variants that do not "
                f"exist: {sorted(unknown)}. They are {sorted(known[function])}."
            )
