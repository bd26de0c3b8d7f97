"""A copy has what a `.keras` file has, and more."""

import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_meta
from keras_meta.learners.adaptation.cloning import clone_model

from .helpers import assert_same_weights
from .helpers import compiled
from .helpers import refuses

NUMBERS = np.random.default_rng(0).normal(3, 2, [8, 3]).astype("float32")
TEXTS = np.array([["red green"], ["blue red"], ["green"], ["red"]])
layers = keras.layers


class Scale(layers.Layer):
    """Keeps a number outside of variables and saves it by itself."""

    factor = 1.0

    def call(self, x):
        return x * self.factor

    def save_own_variables(self, store):
        store["factor"] = self.factor

    def load_own_variables(self, store):
        self.factor = float(store["factor"][()])


class Words(layers.Layer):
    """Keeps words in a file of its own."""

    words = ("none",)

    def call(self, x):
        return x * len(self.words)

    def save_assets(self, folder):
        pathlib.Path(folder, "words").write_text("\n".join(self.words))

    def load_assets(self, folder):
        text = pathlib.Path(folder, "words").read_text()
        self.words = tuple(text.split("\n"))


@keras.saving.register_keras_serializable("keras_meta_tests")
class Sum(keras.Model):
    """Sums what two parts return, which may be the same part."""

    def __init__(self, first, second, **kwargs):
        super().__init__(**kwargs)
        self.first = first
        self.second = second

    def call(self, x):
        return self.first(x) + 2 * self.second(x)

    def get_config(self):
        config = super().get_config()
        for name in ("first", "second"):
            part = getattr(self, name)
            config[name] = keras.saving.serialize_keras_object(part)
        return config

    @classmethod
    def from_config(cls, config):
        for name in ("first", "second"):
            part = keras.saving.deserialize_keras_object(config[name])
            config[name] = part
        return cls(**config)


def double(x):
    return 2 * x


def shout(x):
    return tf.strings.upper(x)


class Penalty(keras.regularizers.Regularizer):
    def __call__(self, x):
        return 0.5 * keras.ops.sum(x)

    def get_config(self):
        return {}


def _sequential(*parts, shape=(3,), dtype=None):
    return keras.Sequential([keras.Input(shape, dtype=dtype), *parts])


def _adapted(layer, data=NUMBERS):
    layer.adapt(data)
    return layer


def _with(layer, **attributes):
    for name, value in attributes.items():
        setattr(layer, name, value)
    return layer


def _text(**kwargs):
    vectors = _adapted(layers.TextVectorization(**kwargs), TEXTS)
    tail = [layers.Dense(2)]
    if kwargs.get("output_mode", "int") == "int":
        tail = [layers.Embedding(9, 2), layers.GlobalAveragePooling1D(), *tail]
    return _sequential(vectors, *tail, shape=(1,), dtype="string"), TEXTS


def _lookup(layer, data):
    tail = layers.Embedding(9, 2), layers.Flatten(), layers.Dense(2)
    dtype = "string" if data.dtype.kind == "U" else "int64"
    return _sequential(layer, *tail, shape=(1,), dtype=dtype), data


def _features():
    space = keras.utils.FeatureSpace(
        {
            "size": keras.utils.FeatureSpace.float_normalized(),
            "color": keras.utils.FeatureSpace.string_categorical(),
            "age": keras.utils.FeatureSpace.float_discretized(3),
        },
        output_mode="concat",
    )
    data = {
        "size": NUMBERS[:4, 0],
        "color": TEXTS[:, 0],
        "age": NUMBERS[:4, 1],
    }
    space.adapt(tf.data.Dataset.from_tensor_slices(data))
    outputs = layers.Dense(2)(space.get_encoded_features())
    inputs = {name: x[:, None] for name, x in data.items()}
    return keras.Model(space.get_inputs(), outputs), inputs


def _shared():
    part = _sequential(layers.Dense(2))
    model = Sum(part, part)
    model(NUMBERS)
    return model


INTEGERS = np.array([[7], [5], [7], [6]])
MODELS = {
    "normalization": lambda: (
        _sequential(_adapted(layers.Normalization()), layers.Dense(1)),
        NUMBERS,
    ),
    "nested normalization": lambda: (
        _sequential(
            keras.Sequential([_adapted(layers.Normalization())]),
            layers.Dense(1),
        ),
        NUMBERS,
    ),
    "discretization": lambda: (
        _sequential(
            _adapted(layers.Discretization(num_bins=3)),
            layers.CategoryEncoding(3, "count"),
            layers.Dense(1),
        ),
        NUMBERS,
    ),
    "string lookup": lambda: _lookup(
        _adapted(layers.StringLookup(), TEXTS), TEXTS
    ),
    "integer lookup": lambda: _lookup(
        _adapted(layers.IntegerLookup(), INTEGERS), INTEGERS
    ),
    "hashing": lambda: _lookup(layers.Hashing(5, salt=3), TEXTS),
    "text": _text,
    "text of one length": lambda: _text(output_sequence_length=3),
    "text as a bag": lambda: _text(output_mode="multi_hot"),
    "text as tf-idf": lambda: _text(output_mode="tf_idf", ngrams=2),
    "text by a function": lambda: _text(standardize=shout),
    "features": _features,
    "values of a layer's own": lambda: (
        _sequential(_with(Scale(), factor=3.5), layers.Dense(1)),
        NUMBERS,
    ),
    "files of a layer's own": lambda: (
        _sequential(_with(Words(), words=("a", "b")), layers.Dense(1)),
        NUMBERS,
    ),
    "a shared part": lambda: (_shared(), NUMBERS),
    "unregistered functions": lambda: (
        _sequential(
            layers.Dense(1, double, kernel_regularizer=Penalty()),
            layers.Lambda(lambda x: x + 1),
        ),
        NUMBERS,
    ),
}


def _learner(model, **kwargs):
    return keras_meta.MAML(model, 0.1, inner_loss="mse", **kwargs)


def _outputs(model, x, **kwargs):
    x = keras.tree.map_structure(tf.convert_to_tensor, x)
    return np.asarray(model(x, **kwargs))


@pytest.mark.slow_variants(
    "text of one length",
    "text as tf-idf",
    "text by a function",
    "integer lookup",
    "nested normalization",
    "hashing",
)
@pytest.mark.parametrize("kind", MODELS)
def test_a_copy_predicts_as_the_model(kind):
    model, x = MODELS[kind]()
    expected = _outputs(model, x)
    adapted = _learner(model).adapt(x, np.zeros_like(expected), steps=0)
    np.testing.assert_array_equal(_outputs(adapted, x), expected)
    assert adapted is not model


def test_a_copy_draws_the_random_numbers_that_the_model_would():
    model = _sequential(layers.Dropout(0.5), layers.GaussianNoise(1.0, seed=1))
    model(NUMBERS, training=True)
    copy = clone_model(model, {})
    np.testing.assert_array_equal(
        _outputs(copy, NUMBERS, training=True),
        _outputs(model, NUMBERS, training=True),
    )


def test_a_copy_shares_no_state():
    scale = _with(Scale(), factor=3.0)
    norm = _adapted(layers.Normalization())
    model = _sequential(norm, scale, layers.Dense(1))
    expected = _outputs(model, NUMBERS)
    copy = _learner(model).adapt(NUMBERS, expected, steps=0)
    scale.factor = 9.0
    norm.adapt(NUMBERS + 1)
    np.testing.assert_array_equal(_outputs(copy, NUMBERS), expected)


def test_a_copy_keeps_low_rank_weights_apart():
    model = _sequential(layers.Dense(3), layers.Dense(3))
    model.layers[0].enable_lora(3)
    for variable in model.variables:
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    copy = clone_model(model, {})
    assert_same_weights(copy, model)


def test_functions_of_one_name_are_not_mixed_up():
    def relu(x):
        return 3 * x

    own, builtin = layers.Dense(1, relu), layers.Dense(1, "relu")
    x, y = NUMBERS, np.zeros([8, 1])
    both = _learner(_sequential(own, builtin))
    with refuses(ValueError, "Two things are called 'relu'.*Rename one"):
        both.adapt(x, y)
    alone = _learner(_sequential(own))
    with refuses(ValueError, "has activation=.*Rename the function"):
        alone.adapt(x, y)


def test_a_replaced_call_is_not_lost():
    model = _sequential(layers.Dense(1, name="own"))
    model.layers[0].call = lambda x, training: ops.sum(x, 1, keepdims=True)
    message = "`call` of layer 'own' was replaced by .* a subclass of Dense"
    with refuses(ValueError, message):
        clone_model(model, {})


def test_classes_of_one_name_are_not_mixed_up():
    class Scale(layers.Layer):
        def call(self, x):
            return -x

    model = _sequential(Scale(), _of_this_file()(), layers.Dense(1))
    with refuses(ValueError, "Two things are called 'Scale'"):
        _learner(model).adapt(NUMBERS, np.zeros([8, 1]))


def _of_this_file():
    return Scale


@pytest.mark.parametrize(
    "kind", ["normalization", "discretization", "files of a layer's own"]
)
def test_a_saved_learner_has_the_state_of_its_layers(kind, tmp_path):
    model, x = MODELS[kind]()
    learner = compiled(_learner(model))
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(
        tmp_path / "learner.keras", custom_objects={"Words": Words}
    )
    np.testing.assert_array_equal(_outputs(loaded.model, x), _outputs(model, x))
