"""Mixtures of layers."""

import keras
import numpy as np
import pytest

import keras_meta

NAMES = ["none", "skip", "normalized"]


def candidates():
    return [
        keras_meta.Zero(name="none"),
        keras.layers.Identity(name="skip"),
        keras.Sequential(
            [
                keras.layers.Conv2D(2, 3, padding="same"),
                keras.layers.BatchNormalization(momentum=0.5),
            ],
            name="normalized",
        ),
    ]


def mixture(**options):
    x = keras.Input([4, 4, 2])
    mixed = keras_meta.MixedOperation(candidates(), name="mixed", **options)
    return keras.Model(x, mixed(x)), mixed


def images():
    return np.random.default_rng(0).normal(size=[5, 4, 4, 2])


@pytest.mark.parametrize("chosen", range(3))
@pytest.mark.parametrize("training", [False, True])
def test_one_share_of_one_is_that_candidate(chosen, training):
    model, mixed = mixture()
    mixed.logits.assign(np.where(np.arange(3) == chosen, 1e9, -1e9))
    alone = keras.models.clone_model(mixed.candidates[2])
    alone.build([None, 4, 4, 2])
    alone.set_weights(mixed.candidates[2].get_weights())
    x = images()
    normalized = alone(x, training=training)
    expected = [np.zeros_like(x), x, normalized][chosen]
    np.testing.assert_allclose(model(x, training=training), expected)
    # The state of batch normalization is that of its own training.
    for a, b in zip(mixed.candidates[2].weights, alone.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    assert mixed.shares == pytest.approx(
        {name: float(i == chosen) for i, name in enumerate(NAMES)}
    )
    assert float(mixed.entropy) == 0


def test_shares_are_a_softmax():
    model, mixed = mixture()
    shares = np.array([0.2, 0.5, 0.3])
    mixed.logits.assign(np.log(shares))
    x = images()
    each = [np.asarray(c(x)) for c in mixed.candidates]
    expected = sum(s * y for s, y in zip(shares, each, strict=True))
    np.testing.assert_allclose(model(x), expected)
    assert [*mixed.shares.values()] == pytest.approx(shares.tolist())
    mixed.logits.assign(np.zeros(3))
    assert float(mixed.entropy) == pytest.approx(1)


def test_zero_is_chosen_only_alone():
    _, mixed = mixture()
    mixed.logits.assign([5.0, 1.0, 2.0])
    assert int(mixed.strongest()) == 2
    alone = keras_meta.MixedOperation([keras_meta.Zero()])
    assert int(alone.strongest()) == 0
    assert float(alone.entropy) == 0


def test_a_mixture_comes_back_from_a_file(tmp_path):
    model, mixed = mixture()
    mixed.logits.assign([0.1, -0.2, 0.3])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = images()
    np.testing.assert_array_equal(model(x), loaded(x))
    assert loaded.get_layer("mixed").shares == mixed.shares


def shapes():
    layers = [keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name="b")]
    keras_meta.MixedOperation(layers)(keras.Input([4]))


@pytest.mark.parametrize(
    "make, error, words",
    [
        (shapes, ValueError, r"one shape.*'a': \(None, 3\).*1 x 1"),
        (
            lambda: keras_meta.MixedOperation([]),
            ValueError,
            "at least one layer",
        ),
        (
            lambda: keras_meta.MixedOperation([keras.ops.relu]),
            TypeError,
            "list of Keras layers.*Lambda",
        ),
        (
            lambda: keras_meta.MixedOperation([keras_meta.Zero(name="a")] * 2),
            ValueError,
            "name of its own",
        ),
        (
            lambda: mixture(logits=np.zeros(3)),
            TypeError,
            "`logits` must be a keras_meta.Hyperparameter",
        ),
        (
            lambda: mixture(logits=keras_meta.Hyperparameter([0.0, 0.0])),
            ValueError,
            r"the shape \(3,\). Received: a Hyperparameter of shape \(2,\)",
        ),
    ],
)
def test_bad_arguments_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()
