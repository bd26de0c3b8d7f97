"""Whole models of every kind equal the per-task loop."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_meta.batching.task_batched import TaskBatched
from keras_meta.learners.adaptation.selection import select_adapted
from tests.reference import assert_close
from tests.reference import assert_equals_loop
from tests.reference import call_in_loop
from tests.reference import normal
from tests.reference import stacked

layers = keras.layers


def residual_net():
    inputs = keras.Input([6, 6, 2])
    x = layers.Conv2D(3, 3, padding="same", use_bias=False)(inputs)
    x = layers.BatchNormalization()(x)
    x = skip = layers.ReLU()(x)
    x = layers.Conv2D(3, 3, padding="same")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Activation("tanh")(layers.add([x, skip]))
    x = layers.MaxPooling2D()(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3)(x))


class Transformer(keras.Model):
    def __init__(self):
        super().__init__()
        self.embed = layers.Embedding(7, 4)
        self.place = layers.Embedding(5, 4)
        self.attention = layers.MultiHeadAttention(2, 3)
        self.norms = [layers.LayerNormalization() for _ in range(2)]
        self.wide = layers.Dense(6, activation="gelu")
        self.narrow = layers.Dense(4)
        self.head = layers.Dense(3)

    def call(self, ids):
        x = self.embed(ids) + self.place(ops.arange(ids.shape[1]))
        y = self.norms[0](x)
        x = x + self.attention(y, y, use_causal_mask=True)
        x = x + self.narrow(self.wide(self.norms[1](x)))
        return self.head(ops.mean(x, axis=1))


class AttentionBlock(keras.Model):
    def __init__(self):
        super().__init__()
        self.attention = layers.MultiHeadAttention(2, 3)
        self.norm = layers.LayerNormalization()
        self.wide = layers.Dense(6, activation="gelu")
        self.narrow = layers.Dense(4)

    def call(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y)
        return x + self.narrow(self.wide(x))


def lone(layer, *shape):
    return keras.Sequential([keras.Input(shape), layer, layers.Dense(2)])


def shared_layer():
    dense = layers.Dense(4, activation="tanh")
    norm = layers.BatchNormalization()
    inputs = keras.Input([4])
    return keras.Model(inputs, norm(dense(norm(dense(inputs)))))


def nested():
    inner_inputs = keras.Input([4])
    inner = keras.Model(
        inner_inputs,
        layers.BatchNormalization()(layers.Dense(4)(inner_inputs)),
    )
    deep = keras.Sequential([keras.Input([4]), inner, layers.Dense(4)])
    inputs = keras.Input([4])
    return keras.Model(inputs, layers.add([deep(inputs), inner(inputs)]))


def several_outputs():
    inputs = keras.Input([4])
    x = layers.Dense(4, activation="tanh")(inputs)
    return keras.Model(
        inputs, {"a": layers.Dense(2)(x), "b": [layers.Dense(3)(x), x]}
    )


def many_layers():
    return keras.Sequential(
        [
            keras.Input([5, 5, 2]),
            layers.SeparableConv2D(4, 2),
            layers.GroupNormalization(2),
            layers.PReLU(shared_axes=[1, 2]),
            layers.Conv2DTranspose(3, 2),
            layers.LayerNormalization(),
            layers.DepthwiseConv2D(2, strides=2),
            layers.Flatten(),
            layers.RMSNormalization(),
            layers.Dense(2, activation="softmax"),
        ]
    )


BY_RULES = {
    "residual net": (residual_net, [6, 6, 2]),
    "attention": (AttentionBlock, [3, 4]),
    "time distributed": (
        lambda: lone(layers.TimeDistributed(layers.Dense(3, "tanh")), 3, 4),
        [3, 4],
    ),
    "time distributed convolution": (
        lambda: lone(
            layers.TimeDistributed(layers.Conv1D(3, 2, activation="tanh")),
            2,
            4,
            3,
        ),
        [2, 4, 3],
    ),
    "shared layer": (shared_layer, [4]),
    "nested": (nested, [4]),
    "several outputs": (several_outputs, [4]),
    "many layers": (many_layers, [5, 5, 2]),
}


@pytest.mark.slow_variants(
    "attention",
    "many layers",
    "nested",
    "residual net",
    "shared layer",
    "time distributed convolution",
)
@pytest.mark.parametrize("name", BY_RULES)
def test_models_by_rules_equal_the_loop(name):
    make, shape = BY_RULES[name]
    model, x = make(), normal([2, 3, *shape])
    model(x[0])
    batched = assert_equals_loop(model, x, training=True, in_graph=True)
    assert not batched.has_fallback


@pytest.mark.slow
def test_subclassed_transformer_equals_the_loop():
    ids = tf.constant(np.random.default_rng(0).integers(0, 7, [2, 3, 5]))
    model = Transformer()
    model(ids[0])
    variables = model.trainable_variables
    # The positions have no batch axis, so their layer cannot take tasks.
    adapted = [v for v in variables if v is not model.place.embeddings]
    batched = assert_equals_loop(model, ids, adapted=adapted, in_graph=True)
    assert not batched.has_fallback


@pytest.mark.slow
def test_input_without_batch_axis_is_computed_rightly_or_refused():
    # An adapted layer is called on positions, [5], not on [batch, 5].
    ids = tf.constant(np.random.default_rng(0).integers(0, 7, [5, 3, 5]))
    model = Transformer()
    model(ids[0])
    variables = model.trainable_variables
    weights = stacked(variables, 5)
    expected, _ = call_in_loop(model, variables, weights, [], ids)
    try:
        actual = TaskBatched(model, variables)(weights, [], ids).outputs
    except (ValueError, tf.errors.InvalidArgumentError):
        return
    assert_close(actual, expected)


RECURRENT = {
    "LSTM": lambda: layers.LSTM(3),
    "GRU": lambda: layers.GRU(3, return_sequences=True),
    "simple": lambda: layers.SimpleRNN(3, unroll=True),
    "cells": lambda: layers.RNN([layers.GRUCell(3), layers.LSTMCell(2)]),
    "bidirectional": lambda: layers.Bidirectional(layers.GRU(3)),
    "convolutional": lambda: layers.ConvLSTM1D(2, 2),
}


SLOW = ("bidirectional", "cells", "convolutional")


@pytest.mark.slow_variants("GRU", "LSTM", "simple")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
        for name in RECURRENT
    ],
)
def test_recurrent_layers_equal_the_loop(name):
    shape = [3, 4, 2] if name == "convolutional" else [3, 4]
    model = lone(RECURRENT[name](), *shape)
    batched = assert_equals_loop(
        model, normal([2, 2, *shape]), training=True, in_graph=True
    )
    assert batched.has_fallback


def test_masked_recurrent_layer_equals_the_loop():
    model = keras.Sequential(
        [
            keras.Input([4], dtype="int64"),
            layers.Embedding(5, 3, mask_zero=True),
            # The loop of plain Keras has no second derivative with cuDNN.
            layers.LSTM(2, use_cudnn=False),
        ]
    )
    ids = tf.constant(np.random.default_rng(0).integers(0, 5, [2, 3, 4]))
    ids *= tf.constant([1, 1, 0, 0], tf.int64)
    assert_equals_loop(model, ids)


@pytest.mark.parametrize("structure", ["list", "dict"])
@pytest.mark.parametrize("subclassed", [True, False])
def test_several_inputs_equal_the_loop(structure, subclassed):
    keys = [0, 1] if structure == "list" else ["a", "b"]

    class Both(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two = layers.Dense(3), layers.Dense(3)

        def call(self, x):
            return ops.tanh(self.one(x[keys[0]]) * self.two(x[keys[1]]))

    if subclassed:
        model = Both()
    else:
        a, b = keras.Input([4], name="a"), keras.Input([2], name="b")
        y = layers.multiply([layers.Dense(3)(a), layers.Dense(3)(b)])
        inputs = [a, b] if structure == "list" else {"a": a, "b": b}
        model = keras.Model(inputs, layers.Activation("tanh")(y))
    inputs = [normal([2, 3, 4], 1), normal([2, 3, 2], 2)]
    if structure == "dict":
        inputs = dict(zip(keys, inputs, strict=True))
    model(keras.tree.map_structure(lambda x: x[0], inputs))
    batched = assert_equals_loop(model, inputs)
    assert not batched.has_fallback


def small_net():
    return keras.Sequential(
        [
            keras.Input([5, 2]),
            layers.Conv1D(3, 2, name="convolution"),
            layers.BatchNormalization(name="norm"),
            layers.Activation("tanh"),
            layers.Flatten(),
            layers.Dense(3, activation="tanh", name="hidden"),
            layers.Dense(2, name="head"),
        ]
    )


CHOICES = {
    "head": "head",
    "normalization": "normalization",
    "biases": lambda v: v.name in ("bias", "beta"),
    "kernels": lambda v: v.name == "kernel",
    "first and last": ["convolution", "head"],
}


@pytest.mark.slow_variants("first and last", "kernels")
@pytest.mark.parametrize("name", CHOICES)
def test_partial_adaptation_equals_the_loop(name):
    model = small_net()
    adapted = select_adapted(model, CHOICES[name])
    assert 0 < len(adapted) < len(model.trainable_variables)
    batched = assert_equals_loop(
        model, normal([3, 2, 5, 2]), adapted=adapted, training=True
    )
    assert not batched.has_fallback


def test_nothing_adapted_equals_the_loop():
    model = small_net()
    x = normal([3, 2, 5, 2])
    batched = TaskBatched(model, [])
    state = batched.initial_state()
    expected, _ = call_in_loop(model, [], [], state, x, True)
    assert_close(batched([], state, x, training=True).outputs, expected)


@pytest.mark.slow_variants("convolution", "hidden")
@pytest.mark.parametrize("name", ["convolution", "norm", "hidden"])
def test_frozen_layers_equal_the_loop(name):
    model = small_net()
    model.get_layer(name).trainable = False
    assert_equals_loop(model, normal([3, 2, 5, 2]), training=True)


def test_frozen_weights_still_have_gradients():
    model = small_net()
    adapted = select_adapted(model, "head")
    batched = TaskBatched(model, adapted)
    x, weights = normal([3, 2, 5, 2]), stacked(adapted, 3)
    state = batched.initial_state()
    shared = [v.value for v in model.trainable_variables[:-2]]
    with tf.GradientTape() as tape:
        y = batched(weights, state, x, training=True).outputs
        loss = tf.reduce_sum(tf.sin(y))
    actual = tape.gradient(loss, shared)
    with tf.GradientTape() as tape:
        y, _ = call_in_loop(model, adapted, weights, state, x, True)
        loss = tf.reduce_sum(tf.sin(y))
    assert_close(actual, tape.gradient(loss, shared))


@pytest.mark.slow
def test_one_model_serves_two_task_batched_calls():
    model = small_net()
    x = normal([3, 2, 5, 2])
    for choice in ("all", "head", "biases"):
        adapted = select_adapted(model, CHOICES.get(choice, choice))
        assert_equals_loop(model, x, adapted=adapted, training=True)
