"""`fit` takes the steps of a loop written out with plain tapes."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

from .helpers import HandWrittenAdam
from .helpers import adapt_by_hand
from .helpers import assert_same_weights
from .helpers import batch
from .helpers import call_with
from .helpers import compiled
from .helpers import dataset
from .helpers import descent
from .helpers import mlp
from .helpers import regression
from .helpers import weights

pytestmark = pytest.mark.usefixtures("float64")

_BATCHES = 10
_SETTINGS = [
    (False, 1),
    pytest.param(False, 5, marks=pytest.mark.slow),
    pytest.param(True, 1, marks=pytest.mark.slow),
    (True, 5),
]


def _mse(y_true, y_pred):
    return tf.reduce_mean(tf.square(y_true - y_pred))


def _network():
    keras.utils.set_random_seed(0)
    return mlp()


@functools.cache
def _data():
    return regression(_BATCHES)


def _loop(model, step):
    """Calls `step(task)` for every task of every batch of `_data()`.

    It returns each task's loss and gradients; their means are logged and
    given to Adam.
    """
    optimizer = keras.optimizers.Adam(0.02)
    losses = []
    variables = model.trainable_variables
    for i in range(_BATCHES):
        x, query_y = batch(_data(), i)
        results = [
            step(*parts)
            for parts in zip(
                *map(
                    tf.convert_to_tensor,
                    (x["support_x"], x["support_y"], x["query_x"], query_y),
                ),
                strict=True,
            )
        ]
        losses.append(np.mean([loss for loss, _ in results]))
        gradients = zip(*[g for _, g in results], strict=True)
        gradients = [tf.reduce_mean(tf.stack(g), axis=0) for g in gradients]
        optimizer.apply(gradients, variables)
    return np.mean(losses)


def _maml_step(model, rates, steps, first_order, x, y, query_x, query_y):
    variables = model.trainable_variables
    every = variables + (rates if isinstance(rates, list) else [])
    with tf.GradientTape() as tape:
        rule = descent(
            [tf.convert_to_tensor(r.value) for r in rates]
            if isinstance(rates, list)
            else rates
        )
        values = adapt_by_hand(model, x, y, _mse, rule, steps, first_order)
        query = call_with(model, variables, values, query_x)
        loss = _mse(query_y, query)
    return loss, tape.gradient(loss, [v.value for v in every])


@functools.cache
def _maml_by_hand(first_order):
    model = _network()
    step = functools.partial(_maml_step, model, 0.3, 2, first_order)
    return _loop(model, step), weights(model)


@functools.cache
def _meta_sgd_by_hand():
    model = _network()
    rates = [
        keras.Variable(tf.fill(v.shape, np.float64(0.25)), name="rate")
        for v in model.trainable_variables
    ]

    class Both:
        trainable_variables = model.trainable_variables + rates

    step = functools.partial(_maml_step, model, rates, 2, False)
    loss = _loop(Both, step)
    return loss, weights(model) + [r.numpy() for r in rates]


def _reptile_by_hand(rule):
    model = _network()
    variables = model.trainable_variables

    def step(x, y, query_x, query_y):
        values = adapt_by_hand(model, x, y, _mse, rule, 3)
        query = call_with(model, variables, values, query_x)
        moves = [
            tf.convert_to_tensor(v.value) - w
            for v, w in zip(variables, values, strict=True)
        ]
        return _mse(query_y, query), moves

    return _loop(model, step), weights(model)


def _assert_fit_equals(by_hand, learner, jit_compile, steps_per_execution):
    loss, expected = by_hand
    compiled(
        learner,
        keras.optimizers.Adam(0.02),
        jit_compile=jit_compile,
        steps_per_execution=steps_per_execution,
    )
    start = weights(learner)
    history = learner.fit(dataset(_data()), verbose=0)
    trained = [v.numpy() for v in learner.trainable_variables]
    assert_same_weights(trained, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(history.history["loss"], [loss], rtol=1e-9)
    assert any(
        np.max(np.abs(a - b)) > 0.1 for a, b in zip(start, trained, strict=True)
    )


@pytest.mark.slow_variants("True-5")
@pytest.mark.parametrize(("jit_compile", "steps_per_execution"), _SETTINGS)
def test_maml(jit_compile, steps_per_execution):
    _assert_fit_equals(
        _maml_by_hand(False),
        keras_meta.MAML(_network(), 0.3, 2),
        jit_compile,
        steps_per_execution,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("jit_compile", "steps_per_execution"), _SETTINGS[::3])
def test_first_order_maml(jit_compile, steps_per_execution):
    _assert_fit_equals(
        _maml_by_hand(True),
        keras_meta.MAML(_network(), 0.3, 2, meta_gradient="first_order"),
        jit_compile,
        steps_per_execution,
    )


@pytest.mark.slow
def test_first_order_and_second_order_differ():
    first, second = _maml_by_hand(True)[1], _maml_by_hand(False)[1]
    assert (
        max(np.max(np.abs(a - b)) for a, b in zip(first, second, strict=True))
        > 1e-3
    )


@pytest.mark.slow
@pytest.mark.parametrize(("jit_compile", "steps_per_execution"), _SETTINGS[::3])
def test_meta_sgd(jit_compile, steps_per_execution):
    _assert_fit_equals(
        _meta_sgd_by_hand(),
        keras_meta.MetaSGD(_network(), 0.25, steps=2),
        jit_compile,
        steps_per_execution,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("jit_compile", "steps_per_execution"), _SETTINGS[::3])
@pytest.mark.parametrize("rule", ["descent", "adam"])
def test_reptile(rule, jit_compile, steps_per_execution):
    if rule == "adam":
        # The hand-written moments are zero again with every task.
        by_hand = _reptile_by_hand(HandWrittenAdam(0.02, 0.0))
        update_rule = keras_meta.Adam(0.02, beta_1=0.0)
    else:
        by_hand = _reptile_by_hand(descent(0.1))
        update_rule = 0.1
    _assert_fit_equals(
        by_hand,
        keras_meta.Reptile(_network(), update_rule, 3),
        jit_compile,
        steps_per_execution,
    )


@pytest.mark.slow
def test_reptile_with_full_momentum_of_adam():
    _assert_fit_equals(
        _reptile_by_hand(HandWrittenAdam(0.02, 0.9)),
        keras_meta.Reptile(_network(), keras_meta.Adam(0.02), 3),
        False,
        1,
    )
