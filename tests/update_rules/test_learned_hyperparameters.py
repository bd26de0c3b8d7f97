import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import keras_meta
from keras_meta.update_rules.learned_hyperparameters import (
    LearnedHyperparameters,
)

from .problems import assert_close
from .problems import attached
from .problems import few
from .problems import gradients
from .problems import rates
from .problems import run
from .problems import start


@few
@given(rate=rates, momentum=st.sampled_from([0.25, 0.5, 0.9]))
def test_equals_momentum_before_training(rate, momentum):
    rule = attached(LearnedHyperparameters(rate, momentum=momentum))
    expected = attached(keras_meta.Momentum(rate, momentum=momentum))
    assert_close(run(rule, start(2), 4), run(expected, start(2), 4), 1e-10)


def test_each_tensor_has_its_own_numbers():
    rule = attached(LearnedHyperparameters(0.1))
    learned = ([0.1, 0.2, 0.3], [0.5, 0.6, 0.7], [0.0, 0.1, -0.1])
    rule.log_rates.assign(np.log(learned[0]))
    rule.momentum_logits.assign([np.log(m / (1 - m)) for m in learned[1]])
    rule.decays.assign(learned[2])
    params = start()
    velocity = [0.0] * 3
    for point in run(rule, start(), 3):
        velocity = [
            m * v + g + d * p
            for p, v, g, m, d in zip(
                params, velocity, gradients(params), *learned[1:], strict=True
            )
        ]
        params = [
            p - r * v
            for p, v, r in zip(params, velocity, learned[0], strict=True)
        ]
        assert_close(point, params, 1e-10)


def test_all_numbers_have_a_gradient():
    rule = attached(LearnedHyperparameters(0.1))
    with tf.GradientTape() as tape:
        ends = run(rule, start(), 3)[-1]
        loss = tf.add_n([tf.reduce_sum(tf.square(p)) for p in ends])
    for gradient in tape.gradient(loss, rule.trainable_variables):
        assert np.all(gradient.numpy() != 0)


def test_config_round_trip():
    rule = LearnedHyperparameters(0.25, momentum=0.5, weight_decay=0.125)
    twin = LearnedHyperparameters.from_config(rule.get_config())
    assert twin.get_config() == rule.get_config()


@pytest.mark.slow
@pytest.mark.usefixtures("float32")
def test_meta_training_finds_better_numbers():
    rule = LearnedHyperparameters(0.001)
    problem = keras_meta.problems.Quadratic(3)
    learner = keras_meta.OptimizerLearner(rule, problem, 10)
    learner.compile(keras.optimizers.Adam(0.1))
    test = keras_meta.problems.batches(64, seed=1, num_batches=1)
    before = learner.evaluate(test, verbose=0)[1]
    learner.fit(keras_meta.problems.batches(16, num_batches=30), verbose=0)
    assert learner.evaluate(test, verbose=0)[1] < 0.7 * before


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", 0.0), ("momentum", 1.0), ("momentum", 0.0)],
)
def test_arguments_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be .*{name}={value}"):
        LearnedHyperparameters(**{name: value})


@pytest.mark.parametrize("decay", ["0.1", float("nan"), None])
def test_a_decay_that_is_not_a_number_is_refused(decay):
    with pytest.raises(ValueError, match="`weight_decay` must be a finite"):
        keras_meta.LearnedHyperparameters(weight_decay=decay)
