"""Alarms for architecture searches."""

import warnings

import keras
import numpy as np
import pytest

from keras_meta import ArchitectureSearch
from keras_meta import MixedOperation
from keras_meta.callbacks import CollapseAlarm


@pytest.fixture(scope="module")
def search():
    """A search whose only choice is a skip."""
    x = keras.Input([2])
    layers = [
        keras.layers.Identity(name="skip"),
        keras.layers.Dense(2, name="dense"),
    ]
    mixed = MixedOperation(layers)
    mixed.logits.assign([9.0, 0.0])
    model = keras.Model(x, keras.layers.Dense(1)(mixed(x)))
    made = ArchitectureSearch(model, 0.0)
    made.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    return made


def watch(alarm, search, skips, entropy):
    """Calls an alarm as `fit` would for two epochs."""
    search.stop_training = False
    alarm.set_model(search)
    alarm.on_train_begin()
    for epoch in range(2):
        alarm.on_epoch_end(epoch, {"skips": skips, "entropy": entropy})
    alarm.on_train_end()


def test_skips_stop_a_search(search):
    data = np.ones([4, 2]), np.ones([4, 1])
    with pytest.warns(UserWarning, match="epoch 1, 1 of 1 choices"):
        history = search.fit(
            *data,
            validation_data=data,
            epochs=2,
            callbacks=[CollapseAlarm(stop=True)],
            verbose=0,
        )
    assert len(history.epoch) == 1


def test_skips_raise_the_alarm_once(search):
    with pytest.warns(UserWarning, match="collapses") as found:
        watch(CollapseAlarm(), search, skips=1.0, entropy=0.1)
    assert len(found) == 1
    assert not search.stop_training


def test_even_mixtures_raise_the_alarm_at_the_end(search):
    with pytest.warns(UserWarning, match="mean entropy of 0.990"):
        watch(CollapseAlarm(), search, skips=0.0, entropy=0.99)


def test_clear_choices_raise_none(search):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch(CollapseAlarm(max_skips=1.0), search, skips=1.0, entropy=0.1)


def test_what_cannot_be_watched_is_refused():
    with pytest.raises(ValueError, match="`max_skips`.*0 to 1"):
        CollapseAlarm(max_skips=2)
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="needs a.*ArchitectureSearch"):
        model.fit(np.ones([4, 2]), np.ones([4, 1]), callbacks=[CollapseAlarm()])
