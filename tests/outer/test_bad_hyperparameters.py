"""What a `HyperparameterLearner` refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from tests.outer.tuners import fit
from tests.outer.tuners import linear_data
from tests.outer.tuners import linear_model
from tests.outer.tuners import tuner_of

DATA, VALIDATION = linear_data(), linear_data(8, seed=1)


def decaying(**options):
    """A learner of the strength of a regularizer."""
    regularizer = keras_meta.LearnedL2(0.1, name="decay")
    return tuner_of(linear_model(regularizer=regularizer), **options)


def unread():
    other = keras_meta.Hyperparameter(0.1, name="other")
    return decaying(hyperparameters=[other])


def without_effect():
    other = keras_meta.Hyperparameter(0.1, name="other")

    def loss(y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_true - y_pred), -1) + other()

    return decaying(inner_loss=loss, hyperparameters=[other])


def not_passed():
    other = keras_meta.Hyperparameter(0.1, name="other")

    def loss(y_true, y_pred):
        return other() * keras.ops.mean(keras.ops.square(y_true - y_pred), -1)

    return decaying(inner_loss=loss)


def reading_weights():
    model = linear_model(regularizer=keras_meta.LearnedL2(0.1))
    kernel = model.layers[0].kernel

    def loss(y_true, y_pred):
        penalty = keras.ops.sum(keras.ops.square(kernel))
        return keras.ops.mean(keras.ops.square(y_true - y_pred), -1) + penalty

    return tuner_of(model, inner_loss=loss)


@pytest.mark.parametrize(
    "make, words",
    [
        (unread, "does not on 'other': nothing that a step descends reads it"),
        (without_effect, "does not on 'other'"),
        (not_passed, "Training reads 'other/raw'.*Pass it in"),
        (reading_weights, "reads the weight '.*kernel' of the model directly"),
        (
            lambda: decaying(meta_gradient="first_order"),
            "FirstOrder.*zero for what acts on the loss: 'decay'.*Unrolled",
        ),
        (
            lambda: decaying(
                meta_gradient=keras_meta.Truncated(5, keras_meta.FirstOrder())
            ),
            "zero for what acts on the loss: 'decay'",
        ),
    ],
)
def test_hyperparameters_without_a_gradient_are_named(make, words):
    tuner = make()
    before = tuner.model.get_weights()
    with pytest.raises(ValueError, match=words):
        fit(tuner, DATA, VALIDATION)
    np.testing.assert_array_equal(tuner.model.get_weights(), before)


RATE = keras_meta.GradientDescent(0.1, learn="scalar")


@pytest.mark.parametrize(
    "options, error, words",
    [
        (
            {"rule": RATE, "meta_gradient": "implicit"},
            ValueError,
            "zero for learned rates.*learn=None",
        ),
        (
            {"rule": keras_meta.Adam(0.1, learn="layer_step"), "steps": 3},
            ValueError,
            'weights for 3 steps.*Use start="initial".*learn="layer"',
        ),
        (
            {"rule": keras_meta.Momentum(0.1, learn="schedule"), "steps": 3},
            ValueError,
            "weights for 3 steps",
        ),
        ({"meta_gradient": "displacement"}, ValueError, "initial weights only"),
        (
            {"steps": 6, "meta_gradient": keras_meta.Truncated(3)},
            ValueError,
            'Use steps=3; or start="initial"',
        ),
        ({"start": "new"}, ValueError, "`start` must be one of 'kept'"),
        ({"steps": 0}, ValueError, "`steps` must be a positive integer"),
        (
            {"example_weights": np.ones(12)},
            TypeError,
            "keras_meta.ExampleWeights",
        ),
        ({"hyperparameters": [0.1]}, TypeError, "`hyperparameters` must be"),
        (
            {"hyperparameters": [keras_meta.Hyperparameter(1, name="decay")]},
            ValueError,
            "several of the names .'decay'.",
        ),
    ],
)
def test_bad_arguments_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        decaying(**options)


def test_there_must_be_something_to_learn():
    with pytest.raises(ValueError, match="There must be something to learn"):
        tuner_of(linear_model())
    with pytest.raises(TypeError, match="`model` must be a keras.Model"):
        tuner_of("model")
    with pytest.raises(ValueError, match="`loss` must be given"):
        decaying(loss=None)


def labelled(labels):
    return DATA[0], np.asarray(labels)


@pytest.mark.parametrize(
    "data, validation, words",
    [
        (DATA, None, "`validation_data` must be given"),
        ((DATA[0], None), VALIDATION, "`x, y` must hold inputs and labels"),
        ((DATA[0], DATA[1][:3]), VALIDATION, r"Received: sizes \[3, 12\]"),
        (DATA, (VALIDATION[0] * np.nan, VALIDATION[1]), "must be finite"),
        (
            [tf.data.Dataset.from_tensor_slices(DATA).batch(4).repeat()],
            VALIDATION,
            "Remove `.repeat",
        ),
    ],
)
def test_bad_data_are_refused(data, validation, words):
    tuner = decaying()
    with pytest.raises(ValueError, match=words):
        fit(tuner, data, validation)


def test_validation_data_must_be_pairs():
    with pytest.raises(TypeError, match="`validation_data` must be arrays"):
        fit(decaying(), DATA, VALIDATION[0])


def test_wrong_class_numbers_are_refused():
    model = keras.Sequential(
        [
            keras.Input([3]),
            keras.layers.Dense(2, kernel_regularizer=keras_meta.LearnedL2(0.1)),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    tuner = tuner_of(model, loss=loss)
    right = labelled(np.arange(12) % 2)
    wrong = labelled(np.arange(12) % 3)
    with pytest.raises(ValueError, match="labels of `y` must be class numbers"):
        fit(tuner, wrong, right)
    with pytest.raises(ValueError, match="labels of `validation_data`"):
        fit(tuner, right, wrong)


def test_weights_must_be_as_many_as_examples():
    tuner = decaying(example_weights=keras_meta.ExampleWeights(5))
    with pytest.raises(ValueError, match="5 weights, and 12 examples"):
        fit(tuner, DATA, VALIDATION)


def test_a_step_that_diverges_is_undone():
    tuner = decaying(rule=1e38, steps=9)
    state = [v.numpy() for v in tuner.weights + tuner.optimizer.variables]
    with pytest.raises(FloatingPointError, match="at step [1-9].*undone"):
        fit(tuner, DATA, VALIDATION)
    after = [v.numpy() for v in tuner.weights + tuner.optimizer.variables]
    for a, b in zip(state, after[: len(state)], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_an_implicit_gradient_far_from_the_minimum_warns():
    # Hyperparameters that move would move the minimum.
    tuner = decaying(rule=0.25, rate=0.0, meta_gradient="implicit")
    with pytest.warns(UserWarning, match="does not arrive at a minimum"):
        logs = fit(tuner, DATA, VALIDATION)
    assert 0.1 < logs["inner_gradient_norm"] < 1
    assert logs["negative_curvature"] == 0
    # From there on, it has gone most of the way from the first weights.
    fit(tuner, DATA, VALIDATION, steps=60)
    assert fit(tuner, DATA, VALIDATION)["inner_gradient_norm"] < 1e-2
