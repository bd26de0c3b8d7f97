"""Meta-gradients through layers that TensorFlow differentiates wrongly."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

layers = keras.layers


class Doubled(layers.Layer):
    """A user's layer that calls TensorFlow to double the size of images."""

    def call(self, x):
        return tf.image.resize(x, [8, 8])


class DoubledByMatrix(layers.Layer):
    """The same map, written as a product with its matrix on each axis."""

    def call(self, x):
        with tf.init_scope():
            basis = tf.reshape(tf.eye(4), [4, 4, 1, 1])
            matrix = tf.image.resize(basis, [8, 1])[:, :, 0, 0].numpy()
        x = tf.tensordot(x, tf.constant(matrix), [[1], [0]])
        x = tf.tensordot(x, tf.constant(matrix), [[1], [0]])
        return tf.transpose(x, [0, 2, 3, 1])

    def compute_output_shape(self, shape):
        return shape[0], 8, 8, shape[-1]


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def episode(tasks, shape, outputs):
    x = {
        "support_x": random(tasks, 3, *shape, seed=1),
        "support_y": random(tasks, 3, *outputs, seed=2),
        "query_x": random(tasks, 3, *shape, seed=3),
    }
    return x, random(tasks, 3, *outputs, seed=4)


def meta_loss(learner, data):
    x, y = data
    return tf.reduce_mean(tf.square(learner(x, training=True) - y))


def learner_of(*hidden, shape):
    """A learner whose model has the given layers and known weights."""
    model = keras.Sequential([keras.Input(shape), *hidden])
    for i, variable in enumerate(model.trainable_variables):
        variable.assign(0.5 * random(*variable.shape, seed=10 + i))
    learner = keras_meta.MAML(model, 0.5)
    learner.compile("sgd", "mse")
    return learner


def resizing_learner(resize):
    return learner_of(
        layers.Conv2D(2, 1, activation="tanh"),
        resize,
        layers.Conv2D(1, 3, padding="same"),
        shape=[4, 4, 1],
    )


def meta_gradient(learner, data):
    with tf.GradientTape() as tape:
        loss = meta_loss(learner, data)
    return tape.gradient(loss, learner.model.trainable_variables)


@pytest.fixture(scope="module")
def expected():
    """The meta-gradients by number of tasks."""
    return {
        tasks: meta_gradient(
            resizing_learner(DoubledByMatrix()),
            episode(tasks, [4, 4, 1], [8, 8, 1]),
        )
        for tasks in (1, 2)
    }


@pytest.mark.slow_variants("Resizing", "own", "own, one task")
@pytest.mark.parametrize(
    ("make", "tasks"),
    [
        (lambda: layers.UpSampling2D(2, interpolation="bilinear"), 2),
        (lambda: layers.Resizing(8, 8), 2),
        (Doubled, 1),
        (Doubled, 2),
    ],
    ids=["UpSampling2D", "Resizing", "own, one task", "own"],
)
def test_resizing_has_the_meta_gradient_of_its_matrix(make, tasks, expected):
    data = episode(tasks, [4, 4, 1], [8, 8, 1])
    actual = meta_gradient(resizing_learner(make()), data)
    for a, b in zip(actual, expected[tasks], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_softsign_trains_with_the_right_meta_gradient():
    learner = learner_of(
        layers.Dense(3, "softsign"), layers.Dense(1), shape=[2]
    )
    data = episode(2, [2], [1])
    actual = meta_gradient(learner, data)
    weight = learner.model.trainable_variables[0]
    before = weight.numpy()
    losses = []
    for step in (0.01, -0.01):
        weight.assign(before + step * random(*weight.shape, seed=5))
        losses.append(meta_loss(learner, data))
    expected = (losses[0] - losses[1]) / 0.02
    along = np.sum(actual[0] * random(*weight.shape, seed=5))
    np.testing.assert_allclose(along, expected, rtol=1e-2)


@pytest.mark.slow
def test_softsign_trains_in_fit():
    learner = learner_of(layers.Dense(3, "softsign"), shape=[2])
    data = tf.data.Dataset.from_tensors(episode(2, [2], [3]))
    history = learner.fit(data, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
