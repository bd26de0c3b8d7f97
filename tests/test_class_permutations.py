"""Spreads over permutations of class numbers, by enumeration."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from tests.learners.helpers import WAYS
from tests.learners.helpers import classification
from tests.learners.helpers import compiled
from tests.learners.helpers import crossentropy
from tests.learners.helpers import dataset
from tests.learners.helpers import refuses

_RATE = 0.3
# Different rows: a head that prefers some classes.
_KERNEL = np.array([[2.0, -1.0, 0.5], [0.0, 1.5, -1.0]], "float32")
_BIAS = np.array([0.5, 0.0, -0.5], "float32")


def _linear(kernel, bias):
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(WAYS)])
    model.set_weights([kernel, bias])
    return _measured(keras_meta.MAML(model, _RATE))


def _measured(learner):
    # Tracing would take longer than these few tasks.
    return compiled(
        learner, loss=crossentropy(), metrics=["accuracy"], run_eagerly=True
    )


def _accuracy(support, labels, queries, truth):
    """Returns the accuracy after one step of softmax regression."""
    logits = support @ _KERNEL + _BIAS
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    gaps = (p - np.eye(WAYS)[labels]) / len(labels)
    kernel = _KERNEL - _RATE * support.T @ gaps
    scores = queries @ kernel + _BIAS - _RATE * gaps.sum(0)
    return np.mean(scores.argmax(-1) == truth)


def test_the_spread_of_a_linear_learner_is_that_of_all_numberings():
    x, y = tasks = classification(2, tasks=3)
    found = keras_meta.class_permutation_spread(
        _linear(_KERNEL, _BIAS), dataset(tasks), tasks=6
    )["accuracy"]
    support, labels, queries = (
        x[name].reshape(6, 6, -1)
        for name in ("support_x", "support_y", "query_x")
    )
    accuracies = np.array(
        [
            [
                _accuracy(
                    support[task],
                    np.take(order, labels[task, :, 0]),
                    queries[task],
                    np.take(order, y.reshape(6, 6)[task]),
                )
                for task in range(6)
            ]
            for order in itertools.permutations(range(WAYS))
        ]
    )
    expected = {
        "mean": accuracies.mean(0),
        "deviation": accuracies.std(0),
        "lowest": accuracies.min(0),
        "highest": accuracies.max(0),
    }
    assert expected["deviation"].mean() > 0.05
    for name, values in expected.items():
        interval = getattr(found, name)
        assert interval.tasks == 6
        assert interval.mean == pytest.approx(values.mean(), abs=1e-6)
        half_width = 1.96 * values.std(ddof=1) / np.sqrt(6)
        assert interval.half_width == pytest.approx(half_width, abs=1e-6)


@pytest.mark.parametrize("name", ["metric learner", "shared rows"])
def test_learners_that_treat_classes_alike_have_no_spread(name):
    encoder = keras.Sequential([keras.Input([2]), keras.layers.Identity()])
    learner = {
        "metric learner": lambda: _measured(
            keras_meta.PrototypicalNetwork(encoder, WAYS)
        ),
        "shared rows": lambda: _linear(
            np.repeat(_KERNEL[:, :1], WAYS, 1), np.ones(WAYS)
        ),
    }[name]()
    found = keras_meta.class_permutation_spread(
        learner, dataset(classification(1, tasks=3)), tasks=3, permutations=5
    )["accuracy"]
    assert found.deviation.mean == 0.0
    assert found.lowest == found.highest
    assert 0.34 < found.mean.mean <= 1.0


def test_what_has_no_class_numbers_is_refused():
    learner = _linear(_KERNEL, _BIAS)
    x, y = classification(1)
    one_hot = {**x, "support_y": np.eye(WAYS)[x["support_y"]]}
    with refuses(ValueError, "`support_y` must be class numbers.*argmax"):
        keras_meta.class_permutation_spread(
            learner, dataset((one_hot, y)), tasks=2
        )
    with refuses(ValueError, "`permutations` must be .* from 2 to 5040"):
        keras_meta.class_permutation_spread(learner, dataset((x, y)), 2, 1)


def test_a_learner_of_numbers_is_refused():
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    learner = compiled(keras_meta.MAML(model, 0.1), run_eagerly=True)
    episodes = tf.data.Dataset.from_tensors(classification())
    with refuses(ValueError, "must predict classes"):
        keras_meta.class_permutation_spread(learner, episodes, tasks=2)
