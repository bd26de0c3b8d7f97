"""The network, the task loss and the step in TensorFlow."""

import keras
import tensorflow as tf

from experiments.benchmarks import setting as setting_lib


def _block(setting, x, kernel, bias, scale, shift):
    x = tf.nn.conv2d(x, kernel, setting.stride, "SAME") + bias
    mean = tf.reduce_mean(x, (0, 1, 2))
    # Not tf.nn.moments: it takes the mean inside the variance for a constant,
    # which leaves gradients right and makes gradients of gradients wrong.
    variance = tf.reduce_mean(tf.square(x - mean), (0, 1, 2))
    x = tf.nn.batch_normalization(
        x, mean, variance, shift, scale, setting_lib.BATCH_NORM_EPSILON
    )
    x = tf.nn.relu(x)
    return tf.nn.max_pool2d(x, 2, 2, "VALID") if setting.pool else x


def _loss(setting, weights, x, y):
    for block in range(setting_lib.BLOCKS):
        x = _block(setting, x, *weights[4 * block : 4 * block + 4])
    if setting.pool:
        x = tf.reshape(x, (-1, setting.features))
    else:
        x = tf.reduce_mean(x, (1, 2))
    kernel, bias = weights[-2:]
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=y, logits=x @ kernel + bias
    )
    return tf.reduce_mean(losses)


def task_loss(setting, weights, task):
    """Returns the query loss of one task after the inner steps."""
    support_x, support_y, query_x, query_y = task
    fast = weights
    for _ in range(setting.steps):
        with tf.GradientTape() as tape:
            tape.watch(fast)
            loss = _loss(setting, fast, support_x, support_y)
        gradients = tape.gradient(loss, fast)
        if setting.first_order:
            gradients = [tf.stop_gradient(g) for g in gradients]
        fast = [
            w - setting.inner_rate * g
            for w, g in zip(fast, gradients, strict=True)
        ]
    return _loss(setting, fast, query_x, query_y)


def make_step(
    setting, parameters, batches, loss_and_gradients, jit_compile=False
):
    """Returns the step function of a peer.

    Args:
        setting: The `Setting`.
        parameters: Numpy arrays, the initial weights.
        batches: Numpy batches.
        loss_and_gradients: Function of the weights, a list of tensors, and
            of the stacked tasks that returns the mean query loss and its
            gradients.
        jit_compile: Whether XLA compiles the step.
    """
    variables = [keras.Variable(w, dtype=w.dtype.name) for w in parameters]
    adam = keras.optimizers.Adam(
        setting.outer_rate, epsilon=setting_lib.ADAM_EPSILON
    )
    adam.build(variables)

    @tf.function(jit_compile=jit_compile)
    def update(tasks):
        weights = [tf.convert_to_tensor(v.value) for v in variables]
        loss, gradients = loss_and_gradients(weights, tasks)
        adam.apply(gradients, variables)
        return loss

    names = ("support_x", "support_y", "query_x", "query_y")
    batches = [[tf.constant(b[name]) for name in names] for b in batches]

    def step(i):
        return float(update(batches[i % len(batches)]))

    return step
