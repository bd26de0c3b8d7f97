"""TensorFlow: `tf.map_fn` over the tasks, each with its own gradient."""

import tensorflow as tf

from experiments.benchmarks.peers import _tf_net


def make(setting, parameters, batches, jit_compile=False):
    def loss_and_gradients(weights, tasks):
        def one_task(task):
            with tf.GradientTape() as tape:
                tape.watch(weights)
                loss = _tf_net.task_loss(setting, weights, task)
            return loss, *tape.gradient(loss, weights)

        signature = (weights[0].dtype,) * (1 + len(weights))
        loss, *gradients = (
            tf.reduce_mean(x, 0)
            for x in tf.map_fn(one_task, tasks, fn_output_signature=signature)
        )
        return loss, gradients

    return _tf_net.make_step(
        setting, parameters, batches, loss_and_gradients, jit_compile
    )
