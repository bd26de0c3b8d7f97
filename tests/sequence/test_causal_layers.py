"""Layers that look back only, against loops over items."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.sequence import CausalAttention
from keras_meta.sequence import GatedConvolution
from keras_meta.sequence import TemporalConvolution
from tests.learners.helpers import refuses

pytestmark = pytest.mark.usefixtures("float64")
_ITEMS, _SIZE = 6, 3


def _sequences(items=_ITEMS, seed=0):
    return np.random.default_rng(seed).normal(size=[2, items, _SIZE])


def _built(layer):
    keras.utils.set_random_seed(0)
    layer.build((None, None, _SIZE))
    for variable in layer.weights:
        shape = variable.shape
        variable.assign(np.random.default_rng(1).normal(size=shape))
    return layer


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _softmax(x):
    x = np.exp(x - x.max())
    return x / x.sum()


# Each layer for one sequence, item by item.


def _gated(layer, x):
    kernel, bias = (w.numpy() for w in layer.weights)
    outputs = []
    for t, item in enumerate(x):
        z = item @ kernel[1] + bias
        if t >= layer.dilation:
            z = z + x[t - layer.dilation] @ kernel[0]
        f, g = np.split(z, 2)
        outputs.append(np.r_[item, np.tanh(f) * _sigmoid(g)])
    return np.stack(outputs)


def _convolved(layer, x):
    for convolution in layer.convolutions:
        x = _gated(convolution, x)
    return x


def _attended(layer, x):
    affine = [
        (dense.kernel.numpy(), dense.bias.numpy())
        for dense in (layer.keys, layer.queries, layer.values)
    ]
    keys, queries, values = (x @ kernel + bias for kernel, bias in affine)
    outputs = []
    for t, item in enumerate(x):
        products = [queries[t] @ keys[i] for i in range(t + 1)]
        weights = _softmax(np.array(products) / np.sqrt(layer.key_size))
        outputs.append(np.r_[item, weights @ values[: t + 1]])
    return np.stack(outputs)


LAYERS = {
    "attention": (lambda: CausalAttention(4, 5), _attended),
    "far convolution": (lambda: GatedConvolution(4, dilation=9), _gated),
    "temporal": (lambda: TemporalConvolution(4, _ITEMS), _convolved),
}
each_layer = pytest.mark.parametrize("name", LAYERS)


@each_layer
def test_outputs_are_those_of_a_loop(name):
    make, loop = LAYERS[name]
    layer, x = _built(make()), _sequences()
    expected = [loop(layer, sequence) for sequence in x]
    found = layer(x)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert layer.compute_output_shape(x.shape) == found.shape


@each_layer
def test_no_output_depends_on_a_later_item(name):
    layer, x = _built(LAYERS[name][0]()), _sequences()
    before = layer(x).numpy()
    for place in (0, 3, _ITEMS - 1):
        other = x.copy()
        other[:, place] += 3.0
        is_same = np.all(layer(other) == before, axis=(0, 2))
        assert is_same[:place].all() and not is_same[place]


@each_layer
@pytest.mark.parametrize("length", [1, _ITEMS])
def test_an_item_that_follows_is_the_next_of_the_sequence(name, length):
    layer, x = _built(LAYERS[name][0]()), _sequences(length)
    following = _sequences(2, seed=2)
    outputs, memory = layer.read(x)
    np.testing.assert_array_equal(outputs, layer(x))
    found = layer.follow(following, memory)
    for i in range(2):
        whole = np.concatenate([x, following[:, i : i + 1]], axis=1)
        np.testing.assert_allclose(
            found[:, i], layer(whole)[:, -1], rtol=1e-12, atol=1e-15
        )


@each_layer
def test_a_layer_is_made_from_its_config(name):
    layer = _built(LAYERS[name][0]())
    config = keras.saving.serialize_keras_object(layer)
    other = keras.saving.deserialize_keras_object(config)
    other.set_weights(layer.get_weights())
    x = _sequences()
    np.testing.assert_array_equal(other(x), layer(x))


def test_attention_is_shared_among_past_and_present():
    layer = _built(CausalAttention(4, 5))
    attention = layer.attention(_sequences()).numpy()
    np.testing.assert_allclose(attention.sum(-1), 1.0, rtol=1e-12)
    future = np.triu(np.ones([_ITEMS, _ITEMS]), 1) > 0
    np.testing.assert_array_equal(attention[:, future], 0.0)
    assert (attention[:, ~future] > 0).all()


@pytest.mark.parametrize("length", [2, 5, 8])
def test_the_last_output_depends_on_every_item(length):
    layer = _built(TemporalConvolution(2, length))
    assert layer.reach // 2 < length <= layer.reach
    x = tf.constant(_sequences(layer.reach + 3))
    with tf.GradientTape() as tape:
        tape.watch(x)
        # The item itself is in the outputs as well.
        last = layer(x)[:, -1, _SIZE:]
    slopes = np.abs(tape.gradient(last, x)).max(axis=(0, 2))
    assert (slopes > 0).tolist() == [False] * 3 + [True] * layer.reach


@pytest.mark.slow
def test_they_are_layers_of_keras_models(tmp_path):
    x = _sequences()
    model = keras.Sequential(
        [
            keras.Input([None, _SIZE]),
            CausalAttention(4, 5),
            TemporalConvolution(4, _ITEMS),
            keras.layers.Dense(1),
        ]
    )
    model.compile("adam", "mse", jit_compile=True)
    model.fit(x, x[..., :1], verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: CausalAttention(0, 5), "key_size"),
        (lambda: CausalAttention(4, 1.5), "value_size"),
        (lambda: GatedConvolution(0), "filters"),
        (lambda: GatedConvolution(4, 0), "dilation"),
        (lambda: TemporalConvolution(True, 4), "filters"),
        (lambda: TemporalConvolution(4, 1), "length"),
    ],
)
def test_bad_sizes_are_refused(make, name):
    with refuses(ValueError, f"`{name}` must be"):
        make()


def test_a_layer_must_say_what_it_reads():
    layer = keras_meta.sequence.CausalLayer()
    with refuses(NotImplementedError, "CausalLayer must implement `read`"):
        layer.read(tf.zeros([1, 2, 3]))
    with refuses(NotImplementedError, "CausalLayer must implement `follow`"):
        layer.follow(tf.zeros([1, 2, 3]), ())
