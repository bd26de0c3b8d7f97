"""Ours on a perceptron with two hidden layers of 256 units."""

import keras
import numpy as np

import keras_meta

WIDTH = 256


def make(setting, parameters, batches):
    """Returns a function that takes a meta-step and returns its loss."""
    del parameters
    size = setting.image_size**2 * setting.channels
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input([size]),
            keras.layers.Dense(WIDTH, "relu"),
            keras.layers.Dense(WIDTH, "relu"),
            keras.layers.Dense(setting.ways),
        ]
    )
    learner = keras_meta.MAML(model, setting.inner_rate, setting.steps)
    learner.compile(
        keras.optimizers.Adam(setting.outer_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    batch = dict(batches[0])
    labels = batch.pop("query_y")
    for name in ("support_x", "query_x"):
        images = batch[name]
        batch[name] = np.reshape(images, [*images.shape[:2], size])

    def step(i):
        del i
        return float(learner.train_on_batch(batch, labels))

    return step
