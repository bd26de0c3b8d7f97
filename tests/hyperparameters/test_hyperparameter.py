"""Values within bounds, and what holds them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.hyperparameters.hyperparameter import shared_by_name

BOUNDS = {
    "none": {},
    "minimum": {"minimum": -1.0},
    "maximum": {"maximum": 3.0},
    "both": {"minimum": -1.0, "maximum": 3.0},
}


@pytest.mark.parametrize("bounds", BOUNDS)
def test_values_come_back(bounds):
    value = np.array([[-0.999, 0.5], [2.9, 1e-7]])
    made = keras_meta.Hyperparameter(value, **BOUNDS[bounds])
    np.testing.assert_allclose(made.numpy(), value, atol=1e-12)
    made.assign(value / 2)
    np.testing.assert_allclose(made.numpy(), value / 2, atol=1e-12)
    copy = keras_meta.Hyperparameter.from_config(made.get_config())
    np.testing.assert_allclose(copy.numpy(), made.numpy(), atol=1e-12)
    assert copy.name == made.name


@pytest.mark.parametrize(
    "bounds, slope",
    [
        ("none", 1.0),
        ("minimum", 0.5 + 1),
        ("maximum", -(3 - 0.5)),
        ("both", (0.5 + 1) * (3 - 0.5) / 4),
    ],
)
def test_values_have_the_slope_of_their_bounds(bounds, slope):
    made = keras_meta.Hyperparameter(0.5, **BOUNDS[bounds])
    with tf.GradientTape() as tape:
        value = made()
    np.testing.assert_allclose(tape.gradient(value, made.raw), slope)


@pytest.mark.parametrize("bounds", BOUNDS)
def test_no_step_leaves_the_bounds(bounds):
    made = keras_meta.Hyperparameter(0.5, **BOUNDS[bounds])
    for raw in (-30.0, 30.0):
        made.raw.assign(raw)
        assert made.numpy() >= BOUNDS[bounds].get("minimum", -np.inf)
        assert made.numpy() <= BOUNDS[bounds].get("maximum", np.inf)


@pytest.mark.parametrize(
    "value, bounds, words",
    [
        (0.0, {"minimum": 0.0}, "above `minimum`.*Begin near the bound"),
        ([0.5, 1.0], {"maximum": 1.0}, "below `maximum`"),
        (np.nan, {}, "`value` must be finite"),
        ("high", {}, "`value` must be a number"),
        (0.5, {"minimum": np.inf}, "`minimum` must be a finite number"),
    ],
)
def test_bad_values_are_refused(value, bounds, words):
    with pytest.raises(ValueError, match=words):
        keras_meta.Hyperparameter(value, **bounds)


@pytest.mark.parametrize(
    "learned, plain",
    [
        (keras_meta.LearnedL1, keras.regularizers.L1),
        (keras_meta.LearnedL2, keras.regularizers.L2),
    ],
)
def test_regularizers_are_those_of_keras(learned, plain):
    x = np.random.default_rng(0).normal(size=[3, 2])
    # Keras's own keeps its strength in float32.
    np.testing.assert_allclose(learned(0.25)(x), plain(0.25)(x), rtol=1e-9)
    copy = learned.from_config(learned(0.25, name="a").get_config())
    assert copy.strength.name == "a"
    np.testing.assert_allclose(copy(x), plain(0.25)(x), rtol=1e-9)


def test_a_strength_for_each_weight():
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    strength = keras_meta.Hyperparameter([[0.1, 0.2], [0.3, 0.4]], minimum=0.0)
    expected = 0.1 * 1 + 0.2 * 4 + 0.3 * 9 + 0.4 * 16
    np.testing.assert_allclose(keras_meta.LearnedL2(strength)(x), expected)


def test_a_strength_must_be_one():
    with pytest.raises(TypeError, match="`strength` must be"):
        keras_meta.LearnedL2("strong")
    with pytest.raises(ValueError, match="`strength` must be a positive"):
        keras_meta.LearnedL2(0.0)


def test_configs_of_one_name_make_one_hyperparameter():
    decay = keras_meta.Hyperparameter(0.1, minimum=0.0, name="decay")
    config = keras_meta.LearnedL2(decay).get_config()
    make = keras_meta.LearnedL2.from_config
    assert make(config).strength is not make(config).strength
    with shared_by_name():
        first, second = make(config), make(config)
    assert first.strength is second.strength
    assert first.strength is not decay
    with shared_by_name([decay]):
        assert make(config).strength is decay


def test_layers_of_a_file_share_what_they_shared(tmp_path):
    """Three layers: Keras's own sharing would lose the first of them."""
    decay = keras_meta.Hyperparameter(0.1, minimum=0.0, name="decay")
    other = keras_meta.Hyperparameter(0.1, minimum=0.0, name="decay")
    model = keras.Sequential([keras.Input([2])])
    for strength in (decay, decay, other, decay):
        regularizer = keras_meta.LearnedL2(strength)
        model.add(keras.layers.Dense(2, kernel_regularizer=regularizer))
    decay.assign(0.3)
    model.save(tmp_path / "model.keras")

    def strengths(model):
        return [x.kernel_regularizer.strength for x in model.layers]

    loaded = keras.models.load_model(tmp_path / "model.keras")
    first, *others, last = strengths(loaded)
    assert first is others[0]
    assert first is last
    assert others[1] is not first
    np.testing.assert_allclose(first.numpy(), 0.3)
    np.testing.assert_allclose(others[1].numpy(), 0.1)
    again = keras.models.load_model(tmp_path / "model.keras")
    assert strengths(again)[0] is not first
    # Outside of a file, a config holds arguments alone.
    assert keras_meta.Hyperparameter(**decay.get_config()).name == "decay"


def test_example_weights_are_looked_up_and_ranked():
    weights = keras_meta.ExampleWeights(4)
    np.testing.assert_allclose(weights.numpy(), [0.5] * 4)
    weights.assign([0.9, 0.1, 0.4, 0.1])
    np.testing.assert_allclose(weights.of(tf.constant([2, 0])), [0.4, 0.9])
    np.testing.assert_array_equal(weights.most_suspicious(), [1, 3, 2, 0])
    np.testing.assert_array_equal(weights.most_suspicious(2), [1, 3])
    copy = keras_meta.ExampleWeights.from_config(weights.get_config())
    assert copy.count == 4
    unbounded = keras_meta.ExampleWeights(2, 5.0, maximum=None)
    np.testing.assert_allclose(unbounded.numpy(), [5.0, 5.0])
