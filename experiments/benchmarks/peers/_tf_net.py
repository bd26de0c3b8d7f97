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
        x, mean, variance, shift, scale, setting_lib.NORM_EPSILON
    )
    x = tf.nn.relu(x)
    return tf.nn.max_pool2d(x, 2, 2, "VALID") if setting.pool else x


def _norm(x, scale, shift):
    x -= tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(x), -1, keepdims=True)
    x *= tf.math.rsqrt(variance + setting_lib.NORM_EPSILON)
    return x * scale + shift


def _attend(x, query, query_bias, key, key_bias, value, value_bias, out, bias):
    queries = tf.einsum("ntc,chd->nhtd", x, query) + query_bias[:, None]
    keys = tf.einsum("ntc,chd->nhtd", x, key) + key_bias[:, None]
    values = tf.einsum("ntc,chd->nhtd", x, value) + value_bias[:, None]
    scores = tf.matmul(queries, keys, transpose_b=True)
    shares = tf.nn.softmax(scores * query.shape[-1] ** -0.5)
    return tf.einsum("nhtd,hdc->ntc", shares @ values, out) + bias


def _features(setting, weights, x):
    if setting.network == "convolution":
        for block in range(setting_lib.BLOCKS):
            x = _block(setting, x, *weights[4 * block : 4 * block + 4])
        if setting.pool:
            return tf.reshape(x, (-1, setting.features))
        return tf.reduce_mean(x, (1, 2))
    if setting.network == "perceptron":
        x = tf.reshape(x, (x.shape[0], -1))
        for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
            x = tf.nn.relu(x @ kernel + bias)
        return x
    kernel, bias, *weights = weights
    x = tf.reshape(x, (*x.shape[:2], -1)) @ kernel + bias
    for i in range(0, len(weights), 16):
        block = weights[i : i + 16]
        x += _attend(_norm(x, *block[:2]), *block[2:10])
        hidden, hidden_bias, out, out_bias = block[12:]
        y = tf.nn.relu(_norm(x, *block[10:12]) @ hidden + hidden_bias)
        x += y @ out + out_bias
    return tf.reduce_mean(x, 1)


def _loss(setting, weights, x, y):
    x = _features(setting, weights[:-2], x)
    kernel, bias = weights[-2:]
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=y, logits=x @ kernel + bias
    )
    return tf.reduce_mean(losses)


def task_loss(setting, weights, task):
    """Returns the query loss of one task after the inner steps."""
    support_x, support_y, query_x, query_y = task
    shared = weights[: setting.first_adapted]
    fast = weights[setting.first_adapted :]
    for _ in range(setting.steps):
        with tf.GradientTape() as tape:
            tape.watch(fast)
            loss = _loss(setting, shared + fast, support_x, support_y)
        gradients = tape.gradient(loss, fast)
        if setting.first_order:
            gradients = [tf.stop_gradient(g) for g in gradients]
        fast = [
            w - setting.inner_rate * g
            for w, g in zip(fast, gradients, strict=True)
        ]
    return _loss(setting, shared + fast, query_x, query_y)


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
