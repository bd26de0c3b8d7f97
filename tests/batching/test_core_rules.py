import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_meta.batching.task_batched import TaskBatched
from tests.reference import assert_close
from tests.reference import assert_equals_loop
from tests.reference import call_in_loop
from tests.reference import few
from tests.reference import normal
from tests.reference import one_layer
from tests.reference import stacked

layers = keras.layers


@pytest.mark.slow
@few
@given(
    tasks=st.integers(1, 3),
    n=st.integers(1, 4),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    units=st.integers(1, 4),
    use_bias=st.booleans(),
    activation=st.sampled_from([None, "tanh", "softmax"]),
)
def test_dense_equals_the_loop(tasks, n, shape, units, use_bias, activation):
    layer = layers.Dense(units + 1, use_bias=use_bias, activation=activation)
    model = one_layer(layer, shape)
    batched = assert_equals_loop(model, normal([tasks, n, *shape]))
    assert not batched.has_fallback


@pytest.mark.parametrize("name", ["kernel", "bias"])
def test_dense_with_one_adapted_weight_equals_the_loop(name):
    model = one_layer(layers.Dense(3, activation="tanh"), [2, 4])
    adapted = [v for v in model.trainable_variables if v.name == name]
    assert_equals_loop(model, normal([3, 5, 2, 4]), adapted=adapted)


EINSUMS = [
    ("ab,bc->ac", 3, "c", [4]),
    ("abc,cd->abd", [None, 3], None, [2, 4]),
    ("abc,cd->abd", [None, 3], "bd", [None, 2, 4][1:]),
    ("...x,xy->...y", 3, "y", [2, 4]),
    ("ab...,bc->ac...", [3, 2], None, [4, 2]),
    ("abcd,cde->abe", [None, 3], "e", [2, 4, 3]),
    ("abc,cde->abde", [None, 3, 2], "de", [2, 4]),
    ("aTb,bU->aTU", [None, 3], "U", [2, 4]),
]


@pytest.mark.parametrize("equation, output, bias, shape", EINSUMS)
def test_einsum_dense_equals_the_loop(equation, output, bias, shape):
    if "bd" == bias:
        output = [2, 3]
    layer = layers.EinsumDense(equation, output, bias_axes=bias)
    batched = assert_equals_loop(
        one_layer(layer, shape), normal([3, 2, *shape])
    )
    assert not batched.has_fallback


@pytest.mark.parametrize("name", ["kernel", "bias"])
def test_einsum_dense_with_one_adapted_weight_equals_the_loop(name):
    layer = layers.EinsumDense("abc,cd->abd", [None, 3], bias_axes="d")
    model = one_layer(layer, [2, 4])
    adapted = [v for v in model.trainable_variables if v.name == name]
    assert_equals_loop(model, normal([2, 3, 2, 4]), adapted=adapted)


@pytest.mark.parametrize("mask_zero", [False, True])
def test_embedding_equals_the_loop(mask_zero):
    ids = tf.constant(np.random.default_rng(0).integers(0, 5, [3, 4, 6]))
    model = keras.Sequential(
        [
            keras.Input([6], dtype="int64"),
            layers.Embedding(5, 3, mask_zero=mask_zero),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
        ]
    )
    batched = assert_equals_loop(model, ids)
    assert not batched.has_fallback


def test_embedding_mask_reaches_later_layers():
    ids = tf.constant([[[1, 0, 0], [2, 3, 0]], [[4, 4, 4], [0, 1, 0]]])
    outputs = []
    for mask_zero in (False, True):
        model = keras.Sequential(
            [
                keras.Input([3], dtype="int64"),
                layers.Embedding(5, 3, mask_zero=mask_zero),
                layers.GlobalAveragePooling1D(),
            ]
        )
        weights = stacked(model.trainable_variables, 2)
        batched = TaskBatched(model, model.trainable_variables)
        outputs.append(batched(weights, [], ids).outputs)
        loop, _ = call_in_loop(
            model, model.trainable_variables, weights, [], ids
        )
        assert_close(outputs[-1], loop)
    assert np.abs(outputs[0] - outputs[1]).max() > 0.1


@pytest.mark.parametrize("shared_axes", [None, [1], [1, 2]])
def test_prelu_equals_the_loop(shared_axes):
    layer = layers.PReLU(shared_axes=shared_axes)
    model = keras.Sequential([keras.Input([3, 2, 4]), layers.Dense(4), layer])
    batched = assert_equals_loop(model, normal([3, 2, 3, 2, 4]))
    assert not batched.has_fallback


def test_sizes_may_be_unknown_while_tracing():
    model = keras.Sequential(
        [
            keras.Input([None, 4]),
            layers.Dense(3, activation="tanh"),
            layers.LayerNormalization(),
            layers.EinsumDense("abc,cd->abd", [None, 2], bias_axes="d"),
            layers.BatchNormalization(),
        ]
    )
    variables = model.trainable_variables
    batched = TaskBatched(model, variables)
    state = batched.initial_state()

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, None, 4], tf.float64)],
        autograph=False,
    )
    def call(x):
        tasks = tf.shape(x)[0]
        weights = [
            tf.tile(w, [tasks, *[1] * (w.shape.rank - 1)])
            for w in stacked(variables, 1)
        ]
        return batched(weights, state, x).outputs

    for tasks, n, time in ((2, 3, 5), (3, 1, 4)):
        x = normal([tasks, n, time, 4])
        weights = [tf.repeat(w, tasks, 0) for w in stacked(variables, 1)]
        expected, _ = call_in_loop(model, variables, weights, state, x, True)
        assert_close(call(x), expected)


def test_hooks_change_nothing_outside_of_a_task_batched_call():
    model = keras.Sequential(
        [keras.Input([4]), layers.Dense(3), layers.BatchNormalization()]
    )
    x = normal([5, 4])
    before = model(x)
    TaskBatched(model, model.trainable_variables)
    assert_close(model(x), before, 0)
    assert_close(model.predict(x, verbose=0), before)
