"""Losses of one's own, which labels of another rank would broadcast in."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.inner.inner_loss import InnerLoss

from .helpers import compiled
from .helpers import mlp
from .helpers import refuses

ops = keras.ops

pytestmark = pytest.mark.usefixtures("float64")

_N, _LENGTH = 4, 3
# Nothing is adapted with this rate, so that queries are as in plain Keras.
_NO_RATE = 1e-30


def _per_example(y_true, y_pred):
    return ops.mean(ops.square(y_true - y_pred), axis=-1)


def _per_entry(y_true, y_pred):
    return ops.square(y_true - y_pred)


def _one_number(y_true, y_pred):
    return ops.mean(ops.abs(y_true - y_pred) ** 3)


class _OwnLoss(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.losses.mean_squared_error(y_true, y_pred)


_LOSSES = {
    "per example": _per_example,
    "per entry": _per_entry,
    "one number": _one_number,
    "lambda": lambda y, p: ops.max(ops.abs(y - p), axis=-1),
    "class": _OwnLoss(dtype="float64"),
}


def _recurrent():
    """Predicts a number for each entry of a sequence."""
    return keras.Sequential(
        [keras.Input([_LENGTH, 2]), keras.layers.Dense(1, "tanh")]
    )


_SHAPES = {
    "[n]": (mlp, [2], [_N]),
    "[n, 1]": (mlp, [2], [_N, 1]),
    "[n, length]": (_recurrent, [_LENGTH, 2], [_N, _LENGTH]),
    "[n, length, 1]": (_recurrent, [_LENGTH, 2], [_N, _LENGTH, 1]),
}


def _case(shape):
    make, x_shape, y_shape = _SHAPES[shape]
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    return make(), rng.normal(size=[_N, *x_shape]), rng.normal(size=y_shape)


def _plain_step(shape, loss):
    model, x, y = _case(shape)
    model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    model.train_on_batch(x, y)
    return model.get_weights()


def _assert_close(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.slow_variants(
    "lambda-[n, length, 1]",
    "lambda-[n]",
    "one number-[n]",
    "lambda-[n, 1]",
    "per example-[n, 1]",
    "per example-[n, length]",
    "per example-[n, length, 1]",
    "per entry-[n, 1]",
    "per entry-[n, length, 1]",
    "one number-[n, 1]",
    "one number-[n, length]",
    "class-[n, 1]",
    "class-[n, length]",
    "class-[n, length, 1]",
)
@pytest.mark.parametrize("shape", _SHAPES)
@pytest.mark.parametrize("name", _LOSSES)
def test_an_inner_step_equals_a_step_of_keras(name, shape):
    model, x, y = _case(shape)
    learner = keras_meta.MAML(model, 0.1, inner_loss=_LOSSES[name])
    adapted = learner.adapt(x, y)
    _assert_close(adapted.get_weights(), _plain_step(shape, _LOSSES[name]))


@pytest.mark.slow
@pytest.mark.parametrize("shape", _SHAPES)
def test_an_outer_step_equals_a_step_of_keras(shape):
    for loss in (_per_example, _LOSSES["class"]):
        model, x, y = _case(shape)
        learner = compiled(
            keras_meta.MAML(model, _NO_RATE), loss=loss, run_eagerly=True
        )
        episode = {"support_x": x, "support_y": y, "query_x": x}
        episode = {k: v[np.newaxis] for k, v in episode.items()}
        learner.train_on_batch(episode, y[np.newaxis])
        _assert_close(model.get_weights(), _plain_step(shape, loss))


@pytest.mark.slow
def test_a_class_axis_counted_from_the_front_is_that_of_an_example():
    def make():
        keras.utils.set_random_seed(0)
        return keras.Sequential(
            [
                keras.Input([3, 2]),
                keras.layers.Dense(2),
                keras.layers.Softmax(1),
            ]
        )

    loss = keras.losses.CategoricalCrossentropy(axis=1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=[_N, 3, 2])
    y = np.moveaxis(np.eye(3)[rng.integers(3, size=[_N, 2])], -1, 1)
    learner = compiled(
        keras_meta.MAML(make(), _NO_RATE), loss=loss, run_eagerly=True
    )
    episode = {"support_x": x, "support_y": y, "query_x": x}
    episode = {k: v[np.newaxis] for k, v in episode.items()}
    learner.train_on_batch(episode, y[np.newaxis])
    plain = make()
    plain.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    plain.train_on_batch(x, y)
    _assert_close(learner.model.get_weights(), plain.get_weights())


def test_a_function_gets_class_numbers_as_they_come():
    def loss(y_true, y_pred):
        return keras.losses.sparse_categorical_crossentropy(
            y_true, y_pred, from_logits=True
        )

    rng = np.random.default_rng(0)
    # As many examples as classes.
    y_true = tf.constant(rng.integers(0, 4, [2, 4]))
    y_pred = tf.constant(rng.normal(size=[2, 4, 4]))
    known = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    np.testing.assert_allclose(
        InnerLoss(loss)(y_true, y_pred), InnerLoss(known)(y_true, y_pred)
    )


class _Broadcasting(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return ops.mean(ops.square(y_true - y_pred), axis=-1)


@pytest.mark.parametrize(
    ("loss", "predictions"),
    [
        (_Broadcasting(), [2, _N, 1]),
        (_per_example, [2, _N, _N]),
        (_per_example, [2, _N, _N + 1]),
        (lambda y, p: ops.mean(ops.square(y - p)), [2, _N, _N]),
    ],
)
def test_labels_that_would_meet_other_examples_are_refused(loss, predictions):
    y_true, y_pred = tf.ones([2, _N]), tf.ones(predictions)
    with refuses(ValueError, r"support_y.shape=\(2, 4\).*as many axes"):
        InnerLoss(loss)(y_true, y_pred)


def test_query_labels_that_would_meet_other_examples_are_refused():
    model, x, y = _case("[n]")
    learner = compiled(keras_meta.MAML(model), loss=_Broadcasting())
    episode = {"support_x": x, "support_y": y[:, np.newaxis], "query_x": x}
    episode = {k: v[np.newaxis] for k, v in episode.items()}
    with refuses(ValueError, r"query_y.shape=\(1, 4\).*as many axes"):
        learner.train_on_batch(episode, y[np.newaxis])


def test_a_loss_of_pairs_of_examples_is_left_alone():
    def spread(y_true, y_pred):
        same = y_true[:, None] == y_true[None]
        distance = ops.sum(ops.square(y_pred[:, None] - y_pred[None]), -1)
        return ops.mean(ops.where(same, distance, -distance))

    y_true = tf.constant([[0.0, 1.0, 0.0]])
    y_pred = tf.constant([[[0.0, 0.0], [2.0, 0.0], [0.0, 1.0]]])
    # Pairs of different labels are at the distances 4 and 5, the others 1.
    np.testing.assert_allclose(
        InnerLoss(spread)(y_true, y_pred), [(2 * 1 - 2 * 4 - 2 * 5) / 9]
    )
