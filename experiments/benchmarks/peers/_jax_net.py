"""The network, the task loss and Adam in JAX."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import setting as setting_lib

BETA_1, BETA_2 = 0.9, 0.999


def _block(setting, x, kernel, bias, scale, shift):
    x = jax.lax.conv_general_dilated(
        x,
        kernel,
        (setting.stride, setting.stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    x += bias
    mean = x.mean((0, 1, 2))
    variance = x.var((0, 1, 2))
    x = (x - mean) * jax.lax.rsqrt(variance + setting_lib.NORM_EPSILON)
    x = jax.nn.relu(x * scale + shift)
    if setting.pool:
        window = (1, 2, 2, 1)
        x = jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, window, window, "VALID"
        )
    return x


def _norm(x, scale, shift):
    x -= x.mean(-1, keepdims=True)
    variance = jnp.square(x).mean(-1, keepdims=True)
    x *= jax.lax.rsqrt(variance + setting_lib.NORM_EPSILON)
    return x * scale + shift


def _attend(x, query, query_bias, key, key_bias, value, value_bias, out, bias):
    queries = jnp.einsum("ntc,chd->nhtd", x, query) + query_bias[:, None]
    keys = jnp.einsum("ntc,chd->nhtd", x, key) + key_bias[:, None]
    values = jnp.einsum("ntc,chd->nhtd", x, value) + value_bias[:, None]
    scores = queries @ keys.swapaxes(-1, -2)
    shares = jax.nn.softmax(scores * query.shape[-1] ** -0.5)
    return jnp.einsum("nhtd,hdc->ntc", shares @ values, out) + bias


def _features(setting, parameters, x):
    if setting.network == "convolution":
        for block in range(setting_lib.BLOCKS):
            x = _block(setting, x, *parameters[4 * block : 4 * block + 4])
        return x.reshape(len(x), -1) if setting.pool else x.mean((1, 2))
    if setting.network == "perceptron":
        x = x.reshape(len(x), -1)
        for kernel, bias in zip(parameters[::2], parameters[1::2], strict=True):
            x = jax.nn.relu(x @ kernel + bias)
        return x
    kernel, bias, *parameters = parameters
    x = x.reshape(*x.shape[:2], -1) @ kernel + bias
    for i in range(0, len(parameters), 16):
        block = parameters[i : i + 16]
        x += _attend(_norm(x, *block[:2]), *block[2:10])
        hidden, hidden_bias, out, out_bias = block[12:]
        y = jax.nn.relu(_norm(x, *block[10:12]) @ hidden + hidden_bias)
        x += y @ out + out_bias
    return x.mean(1)


def _logits(setting, parameters, x, dtype):
    if dtype is not None:
        parameters = [w.astype(dtype) for w in parameters]
        x = x.astype(dtype)
    kernel, bias = parameters[-2:]
    return _features(setting, parameters[:-2], x) @ kernel + bias


def _loss(setting, parameters, x, y, dtype):
    logits = _logits(setting, parameters, x, dtype).astype(parameters[0].dtype)
    log_probabilities = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_probabilities, y[:, None], 1).mean()


def task_loss(setting, parameters, task, dtype=None):
    """Returns the query loss of one task after the inner steps.

    Args:
        setting: The setting.
        parameters: The weights.
        task: Support images and labels, query images and labels.
        dtype: Type that the network computes in, if not the weights' own.
    """
    support_x, support_y, query_x, query_y = task
    shared = parameters[: setting.first_adapted]
    fast = parameters[setting.first_adapted :]

    def support_loss(fast):
        return _loss(setting, shared + fast, support_x, support_y, dtype)

    for _ in range(setting.steps):
        gradients = jax.grad(support_loss)(fast)
        if setting.first_order:
            gradients = jax.lax.stop_gradient(gradients)
        fast = [
            w - setting.inner_rate * g
            for w, g in zip(fast, gradients, strict=True)
        ]
    return _loss(setting, shared + fast, query_x, query_y, dtype)


def _adam(setting, count, parameters, moments, gradients):
    """Returns the parameters and moments after Adam step `count` (1, ...)."""
    rate = setting.outer_rate * jnp.sqrt(1 - BETA_2**count)
    rate /= 1 - BETA_1**count
    means, squares = moments
    means = [
        m + (g - m) * (1 - BETA_1)
        for m, g in zip(means, gradients, strict=True)
    ]
    squares = [
        s + (g * g - s) * (1 - BETA_2)
        for s, g in zip(squares, gradients, strict=True)
    ]
    parameters = [
        w - rate * m / (jnp.sqrt(s) + setting_lib.ADAM_EPSILON)
        for w, m, s in zip(parameters, means, squares, strict=True)
    ]
    return parameters, (means, squares)


def make_step(setting, parameters, batches, loss_and_gradients):
    """Returns the step function of a peer.

    Args:
        setting: The `Setting`.
        parameters: Numpy arrays, the initial weights.
        batches: Numpy batches.
        loss_and_gradients: Function of the parameters and of the stacked
            tasks that returns the mean query loss and its gradients.
    """

    @jax.jit
    def update(count, parameters, moments, tasks):
        loss, gradients = loss_and_gradients(parameters, tasks)
        return loss, *_adam(setting, count, parameters, moments, gradients)

    names = ("support_x", "support_y", "query_x", "query_y")
    batches = [[jnp.asarray(b[name]) for name in names] for b in batches]
    dtype = parameters[0].dtype
    parameters = [jnp.asarray(w) for w in parameters]
    zeros = [jnp.zeros_like(w) for w in parameters]
    state = (parameters, (zeros, zeros))

    def step(i):
        nonlocal state
        tasks = batches[i % len(batches)]
        loss, *state = update(np.asarray(i + 1, dtype), *state, tasks)
        return float(jax.block_until_ready((loss, state))[0])

    return step
