"""Labels of several outputs, each checked against its own loss."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.learners.tasks.query_labels import label_rules

from .helpers import assert_same_weights
from .helpers import compiled
from .helpers import crossentropy
from .helpers import dataset
from .helpers import refuses
from .helpers import weights

TASKS, QUERIES = 2, 3
CE = "sparse_categorical_crossentropy"
DIGIT, LETTER = keras.KerasTensor((None, 3)), keras.KerasTensor((None, 5))
NAMED = {"digit": DIGIT, "letter": LETTER}


def _model(nest=lambda digit, letter: {"digit": digit, "letter": letter}):
    """A network that tells 3 digits and 5 letters apart."""
    inputs = keras.Input([2])
    digit = keras.layers.Dense(3, name="digit")(inputs)
    letter = keras.layers.Dense(5, name="letter")(inputs)
    return keras.Model(inputs, nest(digit, letter))


def _inputs():
    rng = np.random.default_rng(0)
    x = rng.normal(size=[2, TASKS, QUERIES, 2]).astype("float32")
    # The inner loss sees the letters.
    labels = rng.normal(size=[TASKS, QUERIES, 5]).astype("float32")
    return {"support_x": x[0], "support_y": labels, "query_x": x[1]}


def _labels(ways, wrong=None):
    labels = np.arange(TASKS * QUERIES, dtype="int32") % ways
    labels = labels.reshape([TASKS, QUERIES])
    if wrong is not None:
        labels[1, 2] = wrong
    return labels


def _learner(loss, jit_compile=False, **options):
    def inner_loss(y_true, y_pred):
        letter = keras.tree.flatten(y_pred)[-1]
        return tf.reduce_mean(tf.square(y_true - letter), -1)

    learner = keras_meta.MAML(_model(**options), 0.1, inner_loss=inner_loss)
    return compiled(learner, loss=loss, jit_compile=jit_compile)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_wrong_labels_of_the_second_output_stop(jit_compile):
    learner = _learner(
        {"digit": crossentropy(), "letter": crossentropy()}, jit_compile
    )
    y = {"digit": _labels(3), "letter": _labels(5, wrong=5)}
    before = weights(learner.model)
    message = (
        r"Labels must be in 0..4: the model tells 5 classes apart. Task 1 .*"
        r"`query_y\['letter'\]`.*label 5"
    )
    data = tf.data.Dataset.from_tensors((_inputs(), y))
    for method in (learner.fit, learner.evaluate):
        with refuses(ValueError, message):
            method(data, verbose=0)
    assert_same_weights(weights(learner.model), before)


def test_right_labels_of_two_outputs_have_keras_loss():
    learner = _learner([crossentropy(), crossentropy()], nest=_as_list)
    x, y = _inputs(), [_labels(3, wrong=2), _labels(5, wrong=4)]
    expected = sum(
        float(crossentropy()(np.reshape(labels, -1), tf.concat([*p], 0)))
        for labels, p in zip(y, learner(x), strict=True)
    )
    results = learner.evaluate(x, y, batch_size=TASKS, verbose=0)
    np.testing.assert_allclose(results[0], expected, rtol=1e-5)


def _as_list(digit, letter):
    return [digit, letter]


def test_an_output_without_a_loss_may_have_any_labels():
    learner = _learner([None, crossentropy()], nest=_as_list)
    x, y = _inputs(), [_labels(3, wrong=9), _labels(5)]
    assert np.isfinite(learner.evaluate(x, y, batch_size=TASKS, verbose=0))
    y[1][0, 1] = -1
    with refuses(ValueError, r"Task 0 .*`query_y\[1\]`.*label -1"):
        learner.evaluate(x, y, batch_size=TASKS, verbose=0)


@pytest.mark.parametrize(
    ("loss", "y", "outputs", "expected"),
    [
        # One loss for all outputs.
        (CE, {"digit": 0, "letter": 0}, NAMED, ["['digit']3", "['letter']5"]),
        (CE, (0, 0), (DIGIT, LETTER), ["[0]3", "[1]5"]),
        # Losses by name; of some outputs only.
        (
            {"digit": "mse", "letter": CE},
            {"digit": 0, "letter": 0},
            NAMED,
            [None, "['letter']5"],
        ),
        (
            {"letter": CE},
            {"digit": 0, "letter": 0},
            NAMED,
            [None, "['letter']5"],
        ),
        ({"letter": CE}, {"letter": 0}, NAMED, ["['letter']5"]),
        ({"digit": None, "letter": CE}, {"letter": 0}, NAMED, ["['letter']5"]),
        # Losses in a row.
        ([CE, "mse"], [0, 0], [DIGIT, LETTER], ["[0]3", None]),
        ([None, CE], [0], [DIGIT, LETTER], ["[0]5"]),
        ([None, CE], [0, 0], [DIGIT, LETTER], [None, "[1]5"]),
        (
            [CE, CE],
            {"digit": 0, "letter": 0},
            NAMED,
            ["['digit']3", "['letter']5"],
        ),
        # Nested outputs.
        (
            {"all": [CE, None], "letter": CE},
            {"all": [0, 0], "letter": 0},
            {"all": [DIGIT, DIGIT], "letter": LETTER},
            ["['all'][0]3", None, "['letter']5"],
        ),
        # One output.
        (CE, 0, DIGIT, ["3"]),
        ([CE], 0, DIGIT, ["3"]),
        (["mse", CE], 0, DIGIT, ["3"]),
        ({"digit": CE}, 0, DIGIT, ["3"]),
        # Outputs of unknown shapes.
        (CE, 0, None, ["None"]),
        (
            {"digit": CE},
            {"digit": 0, "letter": 0},
            None,
            ["['digit']None", None],
        ),
        # What Keras refuses, and losses of other labels.
        ([CE, CE], [0, 0, 0], [DIGIT, LETTER], [None] * 3),
        ("mse", [0, 0], [DIGIT, LETTER], [None, None]),
        (None, 0, DIGIT, [None]),
    ],
)
def test_labels_go_with_outputs_and_losses_as_in_keras(
    loss, y, outputs, expected
):
    rules = label_rules(loss, y, lambda: outputs)
    found = [
        rule and f"{rule.argument.removeprefix('query_y')}{rule.classes.ways}"
        for rule in rules
    ]
    assert found == expected


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    """A model whose outputs are known when it is called only."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.head = keras.layers.Dense(3)
        self.build([None, 2])

    def build(self, input_shape):
        self.head.build(input_shape)
        self.built = True

    def call(self, x):
        return self.head(x)


@pytest.mark.slow
def test_classes_of_a_subclassed_model_are_known():
    learner = compiled(keras_meta.MAML(Subclassed(), 0.1), loss=crossentropy())
    good = {**_inputs(), "support_y": _labels(3)}
    bad = {**good, "support_y": _labels(3, wrong=3)}
    message = "Labels must be in 0..2: .*Task {} .*`{}`.*label 3"
    of_support, of_query = (
        message.format(1, name) for name in ("support_y", "query_y")
    )
    y, bad_y = _labels(3), _labels(3, wrong=3)
    assert np.isfinite(learner.evaluate(good, y, batch_size=2, verbose=0))
    with refuses(ValueError, of_support):
        learner(bad)
    with refuses(ValueError, message.format(0, "support_y")):
        learner.adapt(bad["support_x"][1], bad["support_y"][1])
    with refuses(ValueError, of_support):
        learner.fit(bad, y, batch_size=2, shuffle=False, verbose=0)
    with refuses(ValueError, of_query):
        learner.fit(good, bad_y, batch_size=2, shuffle=False, verbose=0)
    with refuses(ValueError, of_query):
        keras_meta.evaluate_tasks(
            learner, dataset((good, bad_y)).batch(2), tasks=2
        )
