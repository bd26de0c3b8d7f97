"""Fixtures of the learners' tests."""

import gc

import keras
import pytest

from keras_meta.execution import task_blocks


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


@pytest.fixture
def plain(monkeypatch):
    """Takes all tasks one by one; collects how they were taken."""
    taken = []
    map_blocks = task_blocks.map_blocks

    def spy(function, size, arguments, jit_compile):
        results = map_blocks(function, size, arguments, jit_compile=jit_compile)
        taken.append((size, jit_compile))
        return results

    monkeypatch.setattr(task_blocks, "is_faster_plain", lambda *_: True)
    monkeypatch.setattr(task_blocks, "map_blocks", spy)
    return taken
