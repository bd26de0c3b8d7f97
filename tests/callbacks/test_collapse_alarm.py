"""Alarms for architecture searches."""

import warnings

import keras
import numpy as np
import pytest

from keras_meta import ArchitectureSearch
from keras_meta import MixedOperation
from keras_meta.callbacks import CollapseAlarm


def search(logits):
    x = keras.Input([2])
    layers = [
        keras.layers.Identity(name="skip"),
        keras.layers.Dense(2, name="dense"),
    ]
    mixed = MixedOperation(layers)
    mixed.logits.assign(logits)
    model = keras.Model(x, keras.layers.Dense(1)(mixed(x)))
    made = ArchitectureSearch(model, 0.0)
    made.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    return made


def epochs_of(made, alarm):
    data = np.ones([4, 2]), np.ones([4, 1])
    history = made.fit(
        *data, validation_data=data, epochs=2, callbacks=[alarm], verbose=0
    )
    return len(history.epoch)


@pytest.mark.parametrize("stop, epochs", [(False, 2), (True, 1)])
def test_skips_raise_the_alarm_once(stop, epochs):
    with pytest.warns(UserWarning, match="epoch 1, 1 of 1") as found:
        assert epochs_of(search([9.0, 0.0]), CollapseAlarm(stop=stop)) == epochs
    assert len(found) == 1


def test_even_mixtures_raise_the_alarm_at_the_end():
    with pytest.warns(UserWarning, match="mean entropy of 1.000"):
        epochs_of(search([0.0, 0.0]), CollapseAlarm(max_skips=1.0))


def test_clear_choices_raise_none():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        epochs_of(search([0.0, 9.0]), CollapseAlarm())


def test_what_cannot_be_watched_is_refused():
    with pytest.raises(ValueError, match="`max_skips`.*0 to 1"):
        CollapseAlarm(max_skips=2)
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="needs a.*ArchitectureSearch"):
        model.fit(np.ones([4, 2]), np.ones([4, 1]), callbacks=[CollapseAlarm()])
