"""TensorFlow: a Python loop over the tasks, unrolled by `tf.function`."""

import tensorflow as tf

from experiments.benchmarks.peers import _tf_net


def make(setting, parameters, batches):
    def loss_and_gradients(weights, tasks):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            losses = [
                _tf_net.task_loss(setting, weights, task)
                for task in zip(*map(tf.unstack, tasks), strict=True)
            ]
            loss = tf.reduce_mean(losses)
        return loss, tape.gradient(loss, weights)

    return _tf_net.make_step(setting, parameters, batches, loss_and_gradients)
