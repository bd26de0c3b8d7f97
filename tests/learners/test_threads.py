"""Threads that share a learner do not see each other's settings."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

from .helpers import WAYS
from .helpers import classification
from .helpers import compiled
from .helpers import convolutional_net
from .helpers import crossentropy
from .helpers import dataset
from .helpers import mlp


class _Meeting:
    """Two threads wait for each other, at first and once more."""

    def __init__(self):
        self.barrier = threading.Barrier(2, timeout=120)
        self.is_held = False
        self.local = threading.local()

    def meet(self):
        met = getattr(self.local, "met", 0)
        if self.is_held and met < 2:
            self.local.met = met + 1
            self.barrier.wait()


class Held(keras_meta.MAML):
    """Stops in front of and behind its inner loop."""

    meeting = _Meeting()

    def _adapt(self, *args, **kwargs):
        self.meeting.meet()
        result = super()._adapt(*args, **kwargs)
        self.meeting.meet()
        return result


@pytest.fixture
def meeting():
    Held.meeting = _Meeting()
    return Held.meeting


def _learner(model=None, **options):
    keras.utils.set_random_seed(0)
    learner = Held(mlp(WAYS) if model is None else model, 0.5, steps=1)
    metrics = ["accuracy", keras.metrics.MeanIoU(WAYS, sparse_y_pred=False)]
    return compiled(learner, loss=crossentropy(), metrics=metrics, **options)


def _data(seed=0):
    return dataset(classification(1, 2, seed=seed))


def _adapt(learner):
    x, _ = classification(seed=3)
    adapted = learner.adapt(x["support_x"][0], x["support_y"][0])
    return [w.numpy() for w in adapted.weights]


def _evaluate(learner, steps=None, seed=0):
    result = keras_meta.evaluate_tasks(learner, _data(seed), 2, steps=steps)
    return [interval.mean for interval in result.values()]


def _side_by_side(*functions):
    """Runs functions in threads; returns what they return or raise."""
    results = [None] * len(functions)

    def run(i, function):
        try:
            results[i] = function()
        except Exception as error:
            results[i] = error

    threads = [
        threading.Thread(target=run, args=(i, function))
        for i, function in enumerate(functions)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def _assert_equal(actual, expected):
    assert not isinstance(actual, Exception), actual
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


_OTHERS = {
    "adapt": _adapt,
    "evaluate_tasks": lambda learner: _evaluate(learner, steps=2, seed=1),
    "call": lambda learner: [learner(classification(seed=2)[0]).numpy()],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "run_eagerly"),
    [
        ("adapt", False),
        ("call", False),
        # TensorFlow traces functions one after another.
        ("evaluate_tasks", True),
    ],
)
def test_a_number_of_steps_is_that_of_one_thread(name, run_eagerly, meeting):
    """Both threads are in their inner loops at the same time."""
    other = _OTHERS[name]
    learner = _learner(run_eagerly=run_eagerly)
    expected = _evaluate(learner, steps=5), other(learner)
    learner = _learner(run_eagerly=run_eagerly)
    meeting.is_held = True
    results = _side_by_side(
        lambda: _evaluate(learner, steps=5), lambda: other(learner)
    )
    for actual, wanted in zip(results, expected, strict=True):
        _assert_equal(actual, wanted)


def test_a_failure_is_told_to_the_thread_that_caused_it(meeting):
    learner = _learner(run_eagerly=True)
    expected = _adapt(learner)
    x, y = classification(1, 2)
    x["support_x"][:] = np.nan
    meeting.is_held = True
    failed, adapted = _side_by_side(
        lambda: keras_meta.evaluate_tasks(learner, dataset((x, y)), 2),
        lambda: _adapt(learner),
    )
    assert isinstance(failed, FloatingPointError)
    _assert_equal(adapted, expected)


@pytest.mark.slow
def test_tasks_one_by_one_are_a_matter_of_one_thread(plain, meeting):
    data = classification(1, 3, shape=(6, 6, 1))
    (x, _) = classification(None, 3, shape=(6, 6, 1), seed=2)

    def make():
        keras.utils.set_random_seed(0)
        return _learner(convolutional_net(), jit_compile=True)

    def evaluate():
        result = keras_meta.evaluate_tasks(learner, dataset(data), 3)
        return [interval.mean for interval in result.values()]

    def call():
        return [learner(x).numpy()]

    learner = make()
    expected = call(), evaluate()
    learner = make()
    meeting.is_held = True
    results = _side_by_side(call, evaluate)
    assert plain == [(1, False)] * 2
    for actual, wanted in zip(results, expected, strict=True):
        _assert_equal(actual, wanted)


@pytest.mark.slow
def test_a_learner_exports_while_it_adapts(tmp_path, meeting):
    learner = _learner()
    expected = _adapt(learner)
    x, _ = classification()
    wanted = learner(x).numpy()
    meeting.is_held = True
    exported, adapted = _side_by_side(
        lambda: learner.export(str(tmp_path), verbose=False),
        lambda: _adapt(learner),
    )
    assert exported is None
    _assert_equal(adapted, expected)
    served = tf.saved_model.load(str(tmp_path))
    predictions = served.serve(keras.tree.map_structure(tf.constant, x))
    np.testing.assert_allclose(predictions, wanted, rtol=1e-5)
