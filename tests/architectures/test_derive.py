"""Networks made of what was chosen."""

import keras
import numpy as np
import pytest

import keras_meta


def choice(name, activation="tanh", **options):
    layers = [
        keras_meta.Zero(name="none"),
        keras.layers.Identity(name="skip"),
        keras.layers.Dense(3, activation, name="dense"),
        keras.Sequential(
            [
                keras.layers.Dense(3, activation),
                keras.layers.BatchNormalization(),
            ],
            name="block",
        ),
    ]
    return keras_meta.MixedOperation(layers, name=name, **options)


def cell(name):
    x = keras.Input([3])
    y = choice(f"{name}_first")(x)
    y = keras.layers.Add()([choice(f"{name}_second")(y), x])
    return keras.Model(x, y, name=name)


def network():
    """Two cells, one of them sequential, and a shared regularizer."""
    decay = keras_meta.LearnedL2(0.1, name="decay")
    inner = keras.Sequential(
        [keras.Input([3]), choice("lone"), keras.layers.Dense(3)], name="inner"
    )
    x = keras.Input([3])
    y = inner(cell("cell")(x))
    for _ in range(2):
        y = keras.layers.Dense(3, kernel_regularizer=decay)(y)
    return keras.Model(x, y)


def one_hot(model, chosen):
    """Gives the chosen candidates all of the mixtures."""
    for layer in model._flatten_layers():
        if isinstance(layer, keras_meta.MixedOperation):
            names = [c.name for c in layer.candidates]
            layer.logits.assign(
                [1e9 * (name == chosen[layer.name]) for name in names]
            )


CHOSEN = {"cell_first": "dense", "cell_second": "block", "lone": "skip"}


def test_what_is_derived_computes_what_was_chosen():
    model = network()
    one_hot(model, CHOSEN)
    derived = keras_meta.derive(model, keep_weights=True)
    x = np.random.default_rng(0).normal(size=[5, 3])
    np.testing.assert_allclose(derived(x), model(x), rtol=1e-9)
    layers = derived._flatten_layers()
    assert not any(isinstance(x, keras_meta.MixedOperation) for x in layers)
    names = {layer.name for layer in layers}
    assert {"cell_first_dense", "cell_second_block", "lone_skip"} <= names
    shared = {
        id(v.regularizer.strength)
        for v in derived.trainable_variables
        if v.regularizer is not None
    }
    assert len(shared) == 1


def test_weights_are_new_or_copies():
    model = network()
    before = [v.numpy() for v in model.variables]
    fresh = keras_meta.derive(model, CHOSEN)
    kept = keras_meta.derive(model, CHOSEN, keep_weights=True)
    kernel = model.get_layer("inner").layers[1].kernel
    assert np.all(fresh.get_layer("inner").layers[1].kernel != kernel)
    np.testing.assert_array_equal(
        kept.get_layer("inner").layers[1].kernel, kernel
    )
    for v in kept.variables:
        v.assign(v + 1)
    for v, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(v, value)


def test_choices_take_precedence():
    model = network()
    one_hot(model, CHOSEN)
    derived = keras_meta.derive(model, {"lone": "none"})
    names = {layer.name for layer in derived._flatten_layers()}
    assert {"cell_first_dense", "lone_none"} <= names


class Hidden(keras.layers.Layer):
    """Holds a mixed operation."""

    def __init__(self):
        super().__init__()
        self.mixed = choice("mixed")

    def build(self, input_shape):
        self.mixed.build(input_shape)

    def call(self, x):
        return self.mixed(x)


def hidden():
    x = keras.Input([3])
    return keras.Model(x, Hidden()(x))


def plain():
    return keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])


def twice():
    x = keras.Input([3])
    first, second = cell("cell"), cell("cell")
    second.name = "other"
    return keras.Model(x, second(first(x)))


@pytest.mark.parametrize(
    "make, choices, error, words",
    [
        (plain, None, ValueError, "none to replace"),
        (hidden, None, ValueError, "Received: 'hidden.*', a Hidden"),
        (network, {"lone": "conv"}, ValueError, "Received: 'lone': 'conv'"),
        (network, {"none": "skip"}, ValueError, "'lone': \\['none', 'skip'"),
        (network, ["skip"], TypeError, "`choices` must be a dict.*'skip'"),
        (twice, None, ValueError, "several of the names.*cell_first"),
        (lambda: choice("mixed"), None, TypeError, "must be a keras.Model"),
    ],
)
def test_what_cannot_be_derived_is_named(make, choices, error, words):
    with pytest.raises(error, match=words):
        keras_meta.derive(make(), choices)
