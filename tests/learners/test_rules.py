"""Rules that attend, and rules that several learners share."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

from .helpers import assert_same_weights
from .helpers import compiled
from .helpers import mlp
from .helpers import regression


def attending():
    return keras_meta.HierarchicalRNN(
        [3, 2, 2], seed=0, attention=True, initial_rate=0.1
    )


@pytest.mark.slow
def test_a_trajectory_is_of_the_parameters_and_not_where_the_rule_attends():
    learner = compiled(keras_meta.MAML(mlp(), attending(), steps=3))
    x, _ = regression()
    points = learner.trajectory(x)
    for steps in (1, 2, 3):
        learner.evaluation_steps = steps
        np.testing.assert_allclose(points[steps], learner(x), 1e-5, 1e-6)


@pytest.mark.slow
def test_the_last_step_of_a_multi_step_loss_is_that_of_the_single_one():
    x, y = regression()
    model = mlp()
    start = model.get_weights()
    ends = []
    for step_weights in (None, [0.0, 1.0]):
        model.set_weights(start)
        learner = keras_meta.MAML(
            model, attending(), steps=2, step_weights=step_weights
        )
        compiled(learner).fit(x, y, batch_size=3, verbose=0)
        ends.append(model.get_weights() + learner.update_rule.get_weights())
    assert_same_weights(*ends, rtol=1e-4, atol=1e-6)


def convolution():
    return keras.Sequential(
        [
            keras.Input([4, 4, 1]),
            keras.layers.Conv2D(2, 3),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "make_rule",
    [
        lambda: keras_meta.GradientDescent(0.1, clip_norm=1.0),
        lambda: keras_meta.HierarchicalRNN([3, 2, 2], seed=0),
    ],
)
def test_learners_that_share_a_rule_do_not_disturb_each_other(make_rule):
    x, _ = regression()
    alone, shared = make_rule(), make_rule()
    model = mlp()
    expected = compiled(keras_meta.MAML(model, alone))(x)
    learner = compiled(keras_meta.MAML(model, shared))
    images = {
        "support_x": tf.ones([2, 3, 4, 4, 1]),
        "support_y": tf.ones([2, 3, 1]),
        "query_x": tf.ones([2, 3, 4, 4, 1]),
    }
    other = compiled(keras_meta.MAML(convolution(), shared))
    for _ in range(2):
        other(images)
        np.testing.assert_allclose(learner(x), expected, 1e-6)
