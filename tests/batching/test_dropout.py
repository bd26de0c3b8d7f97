import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta.batching.task_batched import TaskBatched
from tests.reference import assert_close
from tests.reference import normal

layers = keras.layers
ONES = tf.ones([6, 50, 40], tf.float64)


def drop(layer, x=ONES, training=True, **kwargs):
    """Returns outputs of a lone dropout layer, and the new state."""
    model = keras.Sequential([keras.Input(x.shape[2:]), layer])
    batched = TaskBatched(model, [])
    result = batched([], batched.initial_state(), x, training=training)
    return result.outputs.numpy(), result.state


NOISE_SHAPES = [None, (None, 40), (1, 40), (1, None)]


@pytest.mark.slow_variants("noise_shape2")
@pytest.mark.parametrize("noise_shape", NOISE_SHAPES)
def test_each_task_has_its_own_mask(noise_shape):
    y, _ = drop(layers.Dropout(0.5, noise_shape=noise_shape, seed=1))
    assert len(np.unique(y.reshape(6, -1), axis=0)) == 6


@pytest.mark.parametrize("noise_shape", [(1, 40), (1, None)])
def test_examples_of_a_task_share_a_mask_with_a_leading_one(noise_shape):
    y, _ = drop(layers.Dropout(0.5, noise_shape=noise_shape, seed=1))
    assert_close(y, np.repeat(y[:, :1], 50, axis=1), 0)


@pytest.mark.parametrize("noise_shape", NOISE_SHAPES)
def test_dropout_keeps_the_expectation(noise_shape):
    layer = layers.Dropout(0.25, noise_shape=noise_shape, seed=2)
    y, _ = drop(layer, tf.ones([60, 20, 40], tf.float64))
    assert set(np.unique(y)) == {0, 1 / 0.75}
    # 2400 draws at least; five standard errors.
    assert abs(y.mean() - 1) < 5 * np.sqrt(0.25 / 0.75 / 2400)


@pytest.mark.parametrize("noise_shape", NOISE_SHAPES)
def test_dropout_does_nothing_outside_of_training(noise_shape):
    layer = layers.Dropout(0.5, noise_shape=noise_shape)
    y, _ = drop(layer, training=False)
    assert_close(y, ONES, 0)


@pytest.mark.parametrize("noise_shape", NOISE_SHAPES)
def test_the_seed_moves_on_and_repeats_from_the_same_state(noise_shape):
    layer = layers.Dropout(0.5, noise_shape=noise_shape, seed=3)
    model = keras.Sequential([keras.Input([40]), layer])
    batched = TaskBatched(model, [])
    start = batched.initial_state()
    first = batched([], start, ONES, training=True)
    same = batched([], start, ONES, training=True)
    second = batched([], first.state, ONES, training=True)
    assert_close(first.outputs, same.outputs, 0)
    assert np.any(first.outputs != second.outputs)
    assert_close(batched.initial_state(), start, 0)


@pytest.mark.slow_variants("<lambda>2")
@pytest.mark.parametrize(
    "make",
    [
        lambda: layers.AlphaDropout(0.5, noise_shape=(1, 40), seed=1),
        lambda: layers.AlphaDropout(0.5, seed=1),
        lambda: layers.GaussianDropout(0.5, seed=1),
        lambda: layers.GaussianNoise(0.5, seed=1),
    ],
)
def test_other_noise_differs_between_tasks(make):
    y, _ = drop(make())
    assert len(np.unique(y.reshape(6, -1), axis=0)) == 6


def test_spatial_dropout_differs_between_tasks():
    y, _ = drop(
        layers.SpatialDropout1D(0.5, seed=1), tf.ones([6, 5, 4, 30], tf.float64)
    )
    assert len(np.unique(y.reshape(6, -1), axis=0)) == 6
    assert_close(y, np.repeat(y[:, :, :1], 4, axis=2), 0)


def test_dropout_inside_of_a_fallback_differs_between_tasks():
    class Own(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dropout = layers.Dropout(0.5, seed=1)
            self.scale = self.add_weight(shape=[40], initializer="ones")

        def call(self, x, training=None):
            return self.dropout(x * self.scale, training=training)

    model = keras.Sequential([keras.Input([40]), Own()])
    batched = TaskBatched(model, model.trainable_variables)
    assert batched.has_fallback
    start = batched.initial_state()
    weights = [tf.ones([6, 40], tf.float64)]
    first = batched(weights, start, ONES, training=True)
    second = batched(weights, first.state, ONES, training=True)
    flat = np.concatenate([first.outputs, second.outputs]).reshape(12, -1)
    assert len(np.unique(flat, axis=0)) == 12


def test_dropout_scales_what_it_keeps():
    x = normal([3, 4, 40])
    y, _ = drop(layers.Dropout(0.5, seed=1), x)
    kept = y != 0
    assert 0 < kept.mean() < 1
    assert_close(y[kept], 2 * x.numpy()[kept])
