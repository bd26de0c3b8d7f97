"""Several steps in one execution are the same steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import keras_meta
from keras_meta.execution import many_steps

from .helpers import WAYS
from .helpers import classification
from .helpers import compiled
from .helpers import crossentropy
from .helpers import dataset
from .helpers import mlp
from .helpers import regression


def fitted(make, data, steps_per_execution, optimizer, loss, **options):
    """Returns a learner after `fit`, and the losses of its epochs."""
    keras.utils.set_random_seed(0)
    learner = compiled(
        make(),
        optimizer(),
        loss,
        jit_compile=True,
        steps_per_execution=steps_per_execution,
    )
    history = learner.fit(data, verbose=0, shuffle=False, **options)
    return learner, history.history


def assert_same(make, data, loss="mse", optimizer=keras.optimizers.Adam, **kw):
    one, one_history = fitted(make, data, 1, optimizer, loss, **kw)
    many, many_history = fitted(make, data, 4, optimizer, loss, **kw)
    assert int(many.optimizer.iterations) == int(one.optimizer.iterations) > 3
    for a, b in zip(many.variables, one.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    assert one_history.keys() == many_history.keys()
    for name, values in one_history.items():
        np.testing.assert_allclose(many_history[name], values, rtol=1e-9)


def scheduled():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.5)
    return keras.optimizers.Adam(schedule, use_ema=True, clipnorm=1.0)


def accumulating():
    return keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)


@pytest.mark.slow_variants("Adam", "accumulating", "scheduled")
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "optimizer", [keras.optimizers.Adam, scheduled, accumulating]
)
def test_fit_on_data_that_do_not_come_out_even(optimizer):
    def make():
        return keras_meta.MAML(mlp(), 0.1)

    data = dataset(regression(batches=7))
    assert_same(make, data, optimizer=optimizer, epochs=2)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_fit_on_endless_data():
    def make():
        return keras_meta.MetaSGD(mlp())

    data = dataset(regression(batches=5)).repeat()
    assert_same(make, data, epochs=2, steps_per_epoch=8)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_state_and_random_numbers_go_on():
    def make():
        model = keras.Sequential(
            [
                keras.Input([2]),
                keras.layers.Dense(6, "tanh"),
                keras.layers.BatchNormalization(momentum=0.5),
                keras.layers.Dropout(0.5, seed=3),
                keras.layers.Dense(WAYS),
            ]
        )
        return keras_meta.MAML(model, 0.1, batch_statistics="running")

    data = dataset(classification(batches=6))
    assert_same(make, data, crossentropy(), epochs=1)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
def test_reptile_goes_on_drawing():
    def make():
        return keras_meta.Reptile(mlp(), 0.1, steps=3, batch_size=2)

    data = dataset(regression(batches=6))
    assert_same(make, data, optimizer=keras.optimizers.SGD, epochs=1)


def test_no_batch_is_lost():
    """What one execution left unread, the next one reads."""
    drawn = []

    def generator():
        for i in range(11):
            drawn.append(i)
            yield float(i)

    spec = tf.TensorSpec([], tf.float32)
    data = tf.data.Dataset.from_generator(generator, output_signature=spec)
    total, last = tf.Variable(0.0), tf.Variable(-1.0)

    def step(x):
        total.assign_add(x)
        last.assign(x)
        return {"last": last.read_value()}

    take = many_steps.make_many_steps(step, spec, steps=4, chunk=3)
    iterator = iter(data)
    sums = []
    for expected in (3.0, 7.0, 10.0):
        assert float(take(iterator)["last"]) == expected
        sums.append(float(total))
    assert sums == [sum(range(4)), sum(range(8)), sum(range(11))]
    with pytest.raises(StopIteration):
        take(iterator)


def test_an_execution_reads_no_further_than_its_steps():
    data = tf.data.Dataset.range(100)
    total = tf.Variable(0, dtype=tf.int64)

    def step(x):
        total.assign_add(x)
        return {"total": total.read_value()}

    take = many_steps.make_many_steps(
        step, data.element_spec, steps=10, chunk=4
    )
    iterator = iter(data)
    take(iterator)
    assert int(next(iterator)) == 10


@given(st.integers(1, 3000), st.integers(1, 2**28))
def test_a_chunk_fits_into_its_memory(steps, numbers):
    spec = tf.TensorSpec([numbers], tf.float32)
    chunk = many_steps.chunk_size((spec, spec), steps)
    if chunk is not None:
        assert 1 < chunk <= steps
        assert chunk * 2 * 4 * numbers <= 2**25


@pytest.mark.parametrize(
    "spec",
    [
        tf.TensorSpec([None, 3], tf.float32),
        tf.TensorSpec(None, tf.float32),
        tf.RaggedTensorSpec([2, None], tf.float32),
    ],
)
def test_batches_of_unknown_size_are_taken_singly(spec):
    assert many_steps.chunk_size(({"x": spec}, None), 10) is None


@pytest.mark.slow
def test_what_goes_wrong_is_told():
    x, y = regression(batches=6)
    x["support_y"] = np.where(np.arange(6)[:, None, None, None] == 4, np.nan, 1)
    x["support_y"] = x["support_y"] * np.ones([6, 3, 5, 1])
    learner = compiled(
        keras_meta.MAML(mlp(), 0.1), jit_compile=True, steps_per_execution=6
    )
    with pytest.raises(Exception, match="(?i)nan|finite"):
        learner.fit(dataset((x, y)), verbose=0)


@pytest.mark.parametrize("steps_per_execution", [1, 4])
@pytest.mark.parametrize("missing", ["support_x", "support_y", "query_x"])
def test_what_is_no_episode_is_told(missing, steps_per_execution):
    x, y = regression(batches=4)
    del x[missing]
    learner = compiled(
        keras_meta.MAML(mlp(), 0.1),
        jit_compile=True,
        steps_per_execution=steps_per_execution,
    )
    with pytest.raises(ValueError, match=f"Missing: ..{missing}"):
        learner.fit(dataset((x, y)), verbose=0)


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_missing_labels_are_told(steps_per_execution):
    x, _ = regression(batches=4)
    learner = compiled(
        keras_meta.MAML(mlp(), 0.1),
        jit_compile=True,
        steps_per_execution=steps_per_execution,
    )
    with pytest.raises(ValueError, match="query sets need labels"):
        learner.fit(dataset((x,)), verbose=0)
