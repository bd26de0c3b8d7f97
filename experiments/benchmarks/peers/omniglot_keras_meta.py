"""Meta-training steps on Omniglot, on fresh episodes or on ready ones."""

import keras

import keras_meta
from keras_meta import episodes
from keras_meta.models import omniglot_conv

READY = 8


def make(setting, parameters, batches, fresh):
    """Returns a function that takes a step and returns its loss."""
    del parameters, batches
    ways, shots, queries, tasks = setting
    classes = episodes.omniglot("train+validation", rotations=())
    data = classes.episodes(
        ways=ways, shots=shots, queries=queries, tasks=tasks
    )
    if not fresh:
        data = data.take(READY).cache().repeat()
    learner = keras_meta.MAML(omniglot_conv(ways), 0.4)
    learner.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    learner.make_train_function()
    iterator = iter(data)
    if not fresh:
        for _ in range(READY):
            next(iterator)

    def step(i):
        del i
        return float(learner.train_function(iterator)["loss"])

    return step
