"""Keras optimizers: Keras's Adam and learned ones, as `fit` applies them."""

import keras
import tensorflow as tf

import keras_meta
from experiments.benchmarks import optimizer_setting as setting_lib


def _lstm():
    rule = keras_meta.CoordinatewiseLSTM(
        [setting_lib.UNITS] * 2,
        preprocessing=setting_lib.PREPROCESSING,
        output_scale=setting_lib.OUTPUT_SCALE,
    )
    rule.set_weights(setting_lib.lstm_weights())
    return rule


class _Bowl(keras_meta.problems.Problem):
    """`sum theta^2 / 20`, whose gradient costs next to nothing."""

    def __init__(self, parameters):
        self._start = [tf.constant(p)[tf.newaxis] for p in parameters]
        self.variables = [keras.Variable(p) for p in parameters]

    variables = ()

    def draw(self, seed, index, instances):
        return self._start, ()

    def losses(self, params, data, step, *, second_order=False, xla=None):
        return tf.add_n(
            [tf.reduce_sum(tf.square(p), axis=[1, 2]) / 20 for p in params]
        )


def make(setting, parameters, _, optimizer="lstm"):
    if setting.window:
        return _make_window(setting, parameters)
    return _make_step(parameters, optimizer)


def _make_step(parameters, optimizer):
    optimizer = {
        "adam": lambda: keras.optimizers.Adam(1e-3),
        "lstm": lambda: keras_meta.optimizers.LearnedOptimizer(_lstm()),
        "hierarchical": lambda: keras_meta.optimizers.HierarchicalRNNOptimizer(
            seed=0
        ),
    }[optimizer]()
    variables = [keras.Variable(p) for p in parameters]
    optimizer.build(variables)

    @tf.function(jit_compile=True, autograph=False)
    def update():
        optimizer.apply([0.1 * v.value for v in variables], variables)
        return tf.add_n([tf.reduce_sum(v.value) for v in variables])

    return lambda i: float(update())


def _make_window(setting, parameters):
    learner = keras_meta.OptimizerLearner(
        _lstm(),
        _Bowl(parameters),
        setting.window,
        meta_gradient="first_order",
    )
    learner.compile(
        keras.optimizers.Adam(
            setting.meta_rate, epsilon=setting_lib.ADAM_EPSILON
        )
    )
    learner.make_train_function()
    iterator = iter(keras_meta.problems.batches(1))

    def step(i):
        learner.reset_metrics()
        return float(learner.train_function(iterator)["final_loss"])

    return step
