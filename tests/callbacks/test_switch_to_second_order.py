import keras
import numpy as np
import pytest

import keras_meta
from keras_meta.callbacks import SwitchToSecondOrder

from .helpers import Record
from .helpers import compiled_learner
from .helpers import tasks


def _weights_by_epoch(learner, *callbacks, **kwargs):
    record = Record()
    learner.fit(
        tasks(),
        callbacks=[*callbacks, record],
        verbose=0,
        **{"epochs": 4, **kwargs},
    )
    return record.weights


def _differ(a, b):
    return any(np.max(np.abs(x - y)) > 1e-6 for x, y in zip(a, b, strict=True))


def _assert_equal(a, b):
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)


@pytest.mark.slow_variants("True")
@pytest.mark.parametrize("starts_first_order", [False, True])
def test_the_order_changes_at_the_epoch(starts_first_order):
    learner = compiled_learner(first_order=starts_first_order)
    switched = _weights_by_epoch(learner, SwitchToSecondOrder(2))
    first = _weights_by_epoch(compiled_learner(first_order=True))
    for epoch in (0, 1):
        _assert_equal(switched[epoch], first[epoch])
    assert _differ(switched[2], first[2])
    # Exact steps from where the first-order epochs ended.
    second = compiled_learner()
    second.model.set_weights(first[1])
    rest = _weights_by_epoch(second, epochs=2)
    _assert_equal(switched[2], rest[0])
    _assert_equal(switched[3], rest[1])
    assert not learner.first_order


@pytest.mark.slow
def test_epoch_zero_trains_with_second_order_from_the_start():
    switched = _weights_by_epoch(
        compiled_learner(first_order=True), SwitchToSecondOrder(0), epochs=1
    )
    second = _weights_by_epoch(compiled_learner(), epochs=1)
    _assert_equal(switched[0], second[0])


@pytest.mark.slow
def test_a_resumed_fit_knows_its_epoch():
    learner = compiled_learner()
    _weights_by_epoch(learner, SwitchToSecondOrder(2), epochs=1)
    assert learner.first_order
    _weights_by_epoch(
        learner, SwitchToSecondOrder(2), epochs=4, initial_epoch=3
    )
    assert not learner.first_order


@pytest.mark.slow
def test_failures_are_still_found_after_the_switch():
    learner = compiled_learner()
    _weights_by_epoch(learner, SwitchToSecondOrder(1), epochs=2)
    learner.model.layers[0].kernel.assign(np.full([2, 4], np.nan))
    with pytest.raises(FloatingPointError, match="inner step 0"):
        learner.fit(tasks(), verbose=0)


def test_reptile_has_no_second_order():
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    learner = keras_meta.Reptile(model, 0.1)
    learner.compile("sgd", "mse")
    with pytest.raises(ValueError, match="second derivatives.*Reptile"):
        learner.fit(tasks(), callbacks=[SwitchToSecondOrder(1)], verbose=0)
