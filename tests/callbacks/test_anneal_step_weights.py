import keras
import numpy as np
import pytest

from keras_meta.callbacks import AnnealStepWeights

from .helpers import Record
from .helpers import compiled_learner
from .helpers import tasks


class _StepWeights(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.values = []

    def on_train_batch_begin(self, batch, logs=None):
        self.values.append(self.model.step_weights.numpy())


def _values_by_epoch(anneal, epochs, steps=4, **kwargs):
    learner = compiled_learner(steps, step_weights="uniform")
    record = _StepWeights()
    learner.fit(
        tasks(1),
        epochs=epochs,
        callbacks=[anneal, record],
        verbose=0,
        **kwargs,
    )
    return np.stack(record.values)


@pytest.mark.slow
def test_all_weight_moves_to_the_last_step():
    values = _values_by_epoch(AnnealStepWeights(4, rest=0.0), epochs=6)
    early = [0.25, 0.1875, 0.125, 0.0625, 0, 0]
    expected = [[w, w, w, 1 - 3 * w] for w in early]
    np.testing.assert_allclose(values, expected, atol=1e-7)


@pytest.mark.slow
def test_a_rest_stays_on_the_first_steps():
    values = _values_by_epoch(AnnealStepWeights(2, rest=0.1), epochs=4)
    early = [0.25, 0.125, 0.025, 0.025]
    expected = [[w, w, w, 1 - 3 * w] for w in early]
    np.testing.assert_allclose(values, expected, atol=1e-7)
    default = _values_by_epoch(AnnealStepWeights(1), epochs=2)
    np.testing.assert_allclose(default[1, 0], 0.03 / 4, atol=1e-7)


@pytest.mark.slow
def test_a_resumed_fit_knows_its_epoch():
    values = _values_by_epoch(
        AnnealStepWeights(4, rest=0.0), epochs=4, initial_epoch=3
    )
    np.testing.assert_allclose(values[0, 0], 0.0625, atol=1e-7)


@pytest.mark.slow
def test_the_new_weights_are_trained_with():
    annealed = compiled_learner(2, step_weights="uniform")
    plain = compiled_learner(2)
    records = []
    for learner, callbacks in (
        (annealed, [AnnealStepWeights(1, rest=0.0)]),
        (plain, []),
    ):
        records.append(Record())
        learner.fit(
            tasks(),
            initial_epoch=1,
            epochs=3,
            callbacks=[*callbacks, records[-1]],
            verbose=0,
        )
    for epoch in (0, 1):
        for a, b in zip(
            records[0].weights[epoch],
            records[1].weights[epoch],
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_learner_without_step_weights_is_refused():
    learner = compiled_learner()
    with pytest.raises(ValueError, match="step_weights='uniform'"):
        learner.fit(tasks(), callbacks=[AnnealStepWeights(2)], verbose=0)
