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
    x = (x - mean) * jax.lax.rsqrt(variance + setting_lib.BATCH_NORM_EPSILON)
    x = jax.nn.relu(x * scale + shift)
    if setting.pool:
        window = (1, 2, 2, 1)
        x = jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, window, window, "VALID"
        )
    return x


def _logits(setting, parameters, x, dtype):
    if dtype is not None:
        parameters = [w.astype(dtype) for w in parameters]
        x = x.astype(dtype)
    for block in range(setting_lib.BLOCKS):
        x = _block(setting, x, *parameters[4 * block : 4 * block + 4])
    x = x.reshape(len(x), -1) if setting.pool else x.mean((1, 2))
    kernel, bias = parameters[-2:]
    return x @ kernel + bias


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
    fast = parameters
    for _ in range(setting.steps):
        gradients = jax.grad(_loss, argnums=1)(
            setting, fast, support_x, support_y, dtype
        )
        if setting.first_order:
            gradients = jax.lax.stop_gradient(gradients)
        fast = [
            w - setting.inner_rate * g
            for w, g in zip(fast, gradients, strict=True)
        ]
    return _loss(setting, fast, query_x, query_y, dtype)


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
