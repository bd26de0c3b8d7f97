"""A small learner and its tasks."""

import keras
import numpy as np
import tensorflow as tf

import keras_meta


def compiled_learner(steps=2, optimizer=None, **kwargs):
    """A learner with a small network that always starts the same."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input([2]),
            keras.layers.Dense(4, "tanh"),
            keras.layers.Dense(1),
        ]
    )
    learner = keras_meta.MAML(model, 0.3, steps, **kwargs)
    learner.compile(
        optimizer or keras.optimizers.SGD(0.1), "mse", jit_compile=False
    )
    return learner


def tasks(batches=2) -> tf.data.Dataset:
    """Batches of random regression tasks."""
    rng = np.random.default_rng(0)
    shapes = {"support_x": 2, "support_y": 1, "query_x": 2}
    x = {
        key: rng.normal(size=[batches, 3, 5, size]).astype("float32")
        for key, size in shapes.items()
    }
    y = rng.normal(size=[batches, 3, 5, 1]).astype("float32")
    return tf.data.Dataset.from_tensor_slices((x, y))


class Record(keras.callbacks.Callback):
    """Keeps the model's weights at the end of every epoch."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(self.model.model.get_weights())
