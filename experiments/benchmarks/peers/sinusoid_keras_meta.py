"""Ours: the train function that `fit` of `keras_meta.MAML` runs."""

import keras

from keras_meta import MAML
from keras_meta import GradientDescent
from keras_meta import episodes
from keras_meta.models import sinusoid_mlp


def make(setting, parameters, batches, steps_per_execution=None):
    """Returns a function that trains for a turn and returns its mean loss."""
    del batches
    steps_per_execution = steps_per_execution or setting.meta_steps
    model = sinusoid_mlp(setting.hidden)
    model.set_weights(parameters)
    learner = MAML(model, GradientDescent(setting.inner_rate))
    learner.compile(
        keras.optimizers.Adam(setting.outer_rate),
        "mean_squared_error",
        steps_per_execution=steps_per_execution,
    )
    learner.make_train_function()
    data = episodes.sinusoids(
        shots=setting.shots, queries=setting.queries, tasks=setting.tasks
    )
    iterator = iter(data)

    def turn(i):
        del i
        learner.reset_metrics()
        for _ in range(setting.meta_steps // steps_per_execution):
            logs = learner.train_function(iterator)
        return float(logs["loss"])

    return turn
