"""Layers without a rule are called once per task."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from keras import ops

from keras_meta.batching.task_batched import TaskBatched
from tests.reference import assert_close
from tests.reference import assert_equals_loop
from tests.reference import call_in_loop
from tests.reference import normal
from tests.reference import randomize
from tests.reference import stacked

layers = keras.layers


class Scaled(layers.Layer):
    """An unknown layer with weights of its own and of a sublayer."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(4, activation="tanh")
        self.norm = layers.BatchNormalization()

    def build(self, shape):
        self.scale = self.add_weight(shape=[4], initializer="ones")
        self.dense.build(shape)
        self.norm.build([None, 4])

    def call(self, x):
        return self.norm(self.dense(x), training=True) * self.scale


class Doubled(layers.Dense):
    def call(self, inputs):
        return super().call(inputs) ** 2


class Shifted(layers.Embedding):
    def call(self, inputs):
        return super().call(inputs) + 1.0


class TiedWeights(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3, activation="tanh")
        self.norm = layers.BatchNormalization()

    def call(self, x, training=None):
        y = self.norm(self.dense(x), training=training)
        return ops.matmul(y, ops.transpose(self.dense.kernel))


class OwnWeight(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)
        self.power = self.add_weight(shape=[3], initializer="ones")

    def call(self, x):
        return ops.sin(self.dense(x) * self.power)


class TiedLayer(layers.Layer):
    """Reads the kernel of a layer that it holds."""

    def __init__(self, other):
        super().__init__()
        self.other = other

    def call(self, x):
        return ops.tanh(ops.matmul(x, ops.transpose(self.other.kernel)))


def tied_layer():
    dense = layers.Dense(3)
    return keras.Sequential([keras.Input([4]), dense, TiedLayer(dense)])


def tied_lambda():
    dense = layers.Dense(3)
    tied = layers.Lambda(
        lambda x: ops.tanh(ops.matmul(x, ops.transpose(dense.kernel)))
    )
    return keras.Sequential([keras.Input([4]), dense, tied])


def alone(layer):
    return keras.Sequential([keras.Input([4]), layer, layers.Dense(2)])


MODELS = {
    "unknown layer": lambda: alone(Scaled()),
    "subclass of Dense": lambda: alone(Doubled(3)),
    "tied weights": TiedWeights,
    "own weight": OwnWeight,
    "layer that holds another": tied_layer,
}


def messages(monkeypatch):
    logged = []
    monkeypatch.setattr(
        logging, "info", lambda text, *values: logged.append(text % values)
    )
    return logged


@pytest.mark.slow_variants(
    "layer that holds another",
    "own weight",
    "subclass of Dense",
    "tied weights",
)
@pytest.mark.parametrize("name", MODELS)
def test_fallback_equals_the_loop_and_is_logged_once(name, monkeypatch):
    model, x = MODELS[name](), normal([3, 2, 4])
    model(x[0])
    randomize(model.non_trainable_variables)
    logged = messages(monkeypatch)
    batched = assert_equals_loop(model, x, training=True, in_graph=True)
    assert batched.has_fallback
    assert len(logged) == 1
    assert "once per task" in logged[0]
    # A second call needs no second message.
    weights = stacked(model.trainable_variables, 3)
    batched(weights, batched.initial_state(), x)
    assert len(logged) == 1


def test_recurrent_layer_is_logged_once(monkeypatch):
    model = keras.Sequential([keras.Input([3, 4]), layers.LSTM(2)])
    logged = messages(monkeypatch)
    TaskBatched(model, model.trainable_variables)
    assert len(logged) == 1


def test_models_by_rules_log_nothing(monkeypatch):
    model = alone(layers.Dense(3))
    logged = messages(monkeypatch)
    TaskBatched(model, model.trainable_variables)
    assert not logged


@pytest.mark.slow
def test_fallback_also_equals_the_loop_eagerly():
    model, x = alone(Scaled()), normal([3, 2, 4])
    assert_equals_loop(model, x)


def test_lambda_that_reads_an_adapted_kernel_equals_the_loop():
    assert_equals_loop(tied_lambda(), normal([3, 2, 4]))


@pytest.mark.slow
def test_subclass_of_embedding_equals_the_loop():
    model = keras.Sequential(
        [keras.Input([6], dtype="int64"), Shifted(5, 3), layers.Dense(2)]
    )
    ids = tf.constant(np.random.default_rng(0).integers(0, 5, [3, 4, 6]))
    assert_equals_loop(model, ids, in_graph=True)


@pytest.mark.slow_variants("Conv1D-True", "Dense-True")
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("inner", [layers.Dense, layers.Conv1D])
def test_spectral_normalization_equals_the_loop(training, inner):
    arguments = (3,) if inner is layers.Dense else (3, 2)
    wrapper = layers.SpectralNormalization(inner(*arguments))
    model = keras.Sequential([keras.Input([4, 2]), wrapper, layers.Dense(2)])
    assert_equals_loop(model, normal([3, 2, 4, 2]), training=training)


@pytest.mark.slow
@pytest.mark.parametrize("statistics", ["batch", "running"])
def test_state_inside_of_a_fallback_becomes_the_mean_of_the_tasks(statistics):
    model, x = alone(Scaled()), normal([3, 5, 4])
    variables = model.trainable_variables
    batched = TaskBatched(model, variables)
    weights, state = stacked(variables, 3), batched.initial_state()
    new = batched(weights, state, x, training=True, statistics=statistics).state
    expected = state
    if statistics == "running":
        _, states = call_in_loop(model, variables, weights, state, x, True)
        expected = [tf.reduce_mean(s, 0) for s in states]
    assert_close(new, expected)


@pytest.mark.slow
def test_statistics_inside_of_a_fallback_are_recorded_and_used():
    model, x = alone(Scaled()), normal([3, 5, 4])
    variables = model.trainable_variables
    batched = TaskBatched(model, variables)
    weights, state = stacked(variables, 3), batched.initial_state()
    first = batched(weights, state, x)
    assert [m.shape for m in keras.tree.flatten(first.statistics)] == [
        (3, 4),
        (3, 4),
    ]
    part = batched(weights, state, x[:, :2], statistics=first.statistics)
    assert_close(part.outputs, first.outputs[:, :2])


@pytest.mark.slow
def test_arguments_without_batch_axis_reach_every_task_whole():
    class Affine(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=[shape[-1], 2])

        def call(self, x, table, factor):
            return factor * ops.matmul(x, self.kernel) + ops.sum(table)

    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.affine = Affine()
            self.table = normal([5, 2])

        def call(self, x):
            return self.affine(x, self.table, factor=tf.constant(3.0, x.dtype))

    model, x = Net(), normal([2, 3, 4])
    model(x[0])
    assert_equals_loop(model, x, in_graph=True)


def test_an_error_in_the_model_is_not_swallowed():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(2)
            self.fails = False

        def call(self, x):
            if self.fails:
                raise RuntimeError("broken on purpose")
            return self.dense(x)

    model, x = Net(), normal([2, 3, 4])
    model(x[0])
    batched = TaskBatched(model, model.trainable_variables)
    weights = stacked(model.trainable_variables, 2)
    batched(weights, [], x)
    model.fails = True
    with pytest.raises(RuntimeError, match="broken on purpose"):
        batched(weights, [], x)
    assert not batched.has_fallback
