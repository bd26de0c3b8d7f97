import keras
import numpy as np
import pytest

import keras_meta
from keras_meta.callbacks import SwitchMetaGradient

from .helpers import Record
from .helpers import compiled_learner
from .helpers import tasks

FIRST, EXACT = "first_order", "unrolled"


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


@pytest.mark.slow_variants("first_order")
@pytest.mark.parametrize("before", [EXACT, FIRST])
def test_the_meta_gradient_changes_at_the_epoch(before):
    learner = compiled_learner(meta_gradient=before)
    switch = SwitchMetaGradient({0: FIRST, 2: keras_meta.Unrolled()})
    switched = _weights_by_epoch(learner, switch)
    first = _weights_by_epoch(compiled_learner(meta_gradient=FIRST))
    for epoch in (0, 1):
        _assert_equal(switched[epoch], first[epoch])
    assert _differ(switched[2], first[2])
    # Exact steps continue from where the first-order epochs ended.
    exact = compiled_learner()
    exact.model.set_weights(first[1])
    rest = _weights_by_epoch(exact, epochs=2)
    _assert_equal(switched[2], rest[0])
    _assert_equal(switched[3], rest[1])
    assert learner.meta_gradient == keras_meta.Unrolled()


@pytest.mark.slow
def test_epoch_zero_takes_effect():
    learner = compiled_learner(meta_gradient=FIRST)
    switched = _weights_by_epoch(
        learner, SwitchMetaGradient({0: EXACT}), epochs=1
    )
    exact = _weights_by_epoch(compiled_learner(), epochs=1)
    _assert_equal(switched[0], exact[0])


@pytest.mark.slow
def test_a_resumed_fit_knows_its_epoch():
    learner = compiled_learner()
    switch = SwitchMetaGradient({0: FIRST, 2: EXACT})
    _weights_by_epoch(learner, switch, epochs=1)
    assert learner.meta_gradient == keras_meta.FirstOrder()
    _weights_by_epoch(learner, switch, epochs=4, initial_epoch=3)
    assert learner.meta_gradient == keras_meta.Unrolled()


@pytest.mark.slow
def test_failures_are_still_found_after_the_switch():
    learner = compiled_learner()
    switch = SwitchMetaGradient({0: FIRST, 1: EXACT})
    _weights_by_epoch(learner, switch, epochs=2)
    learner.model.layers[0].kernel.assign(np.full([2, 4], np.nan))
    with pytest.raises(FloatingPointError, match="inner step 0"):
        learner.fit(tasks(), verbose=0)


def _model():
    return keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])


def test_a_learner_that_cannot_use_one_is_refused_before_training():
    switch = SwitchMetaGradient({0: "displacement", 100: EXACT})
    learner = keras_meta.Reptile(_model(), 0.1)
    learner.compile("sgd", "mse")
    before = learner.get_weights()
    with pytest.raises(ValueError, match="Reptile.*Unrolled"):
        learner.fit(tasks(), callbacks=[switch], verbose=0)
    _assert_equal(before, learner.get_weights())


def test_windows_of_a_later_epoch_are_refused_before_training():
    switch = SwitchMetaGradient({0: EXACT, 100: keras_meta.Truncated(3)})
    learner = keras_meta.MAML(_model(), 0.1, steps=9)
    learner.compile("sgd", "mse")
    with pytest.raises(ValueError, match="steps=9.*Truncated.*length=3"):
        learner.fit(tasks(), callbacks=[switch], verbose=0)


@pytest.mark.parametrize(
    "value", [{}, {1: FIRST}, {"0": FIRST}, [FIRST], FIRST, None]
)
def test_refuses_schedules_without_epoch_0(value):
    with pytest.raises(ValueError, match="`meta_gradients` must .*epoch 0"):
        SwitchMetaGradient(value)


def test_refuses_values_that_are_not_meta_gradients():
    with pytest.raises(TypeError, match="`meta_gradient` must be"):
        SwitchMetaGradient({0: FIRST, 1: True})
