"""JAX: steps compiled one by one, or a turn's steps in one `lax.scan`."""

import jax
import jax.numpy as jnp

from experiments.benchmarks.peers._jax_net import BETA_1
from experiments.benchmarks.peers._jax_net import BETA_2

EPSILON = 1e-7


def _predict(parameters, x):
    *hidden, last = zip(parameters[::2], parameters[1::2], strict=True)
    for kernel, bias in hidden:
        x = jax.nn.relu(x @ kernel + bias)
    return x @ last[0] + last[1]


def _loss(parameters, x, y):
    return jnp.mean((_predict(parameters, x) - y) ** 2)


def _draw(setting, key):
    amplitude, phase, point = jax.random.split(key, 3)
    waves = (setting.tasks, 1, 1)
    points = (setting.tasks, setting.shots + setting.queries, 1)
    x = jax.random.uniform(point, points, minval=-5.0, maxval=5.0)
    amplitude = jax.random.uniform(amplitude, waves, minval=0.1, maxval=5.0)
    phase = jax.random.uniform(phase, waves, maxval=jnp.pi)
    y = amplitude * jnp.sin(x + phase)
    n = setting.shots
    return x[:, :n], y[:, :n], x[:, n:], y[:, n:]


def _task_loss(setting, parameters, support_x, support_y, query_x, query_y):
    gradients = jax.grad(_loss)(parameters, support_x, support_y)
    adapted = [
        w - setting.inner_rate * g
        for w, g in zip(parameters, gradients, strict=True)
    ]
    return _loss(adapted, query_x, query_y)


def _meta_step(setting, state, key):
    parameters, means, squares, count = state

    def meta_loss(parameters):
        losses = jax.vmap(lambda *task: _task_loss(setting, parameters, *task))
        return jnp.mean(losses(*_draw(setting, key)))

    loss, gradients = jax.value_and_grad(meta_loss)(parameters)
    count += 1
    means = [
        BETA_1 * m + (1 - BETA_1) * g
        for m, g in zip(means, gradients, strict=True)
    ]
    squares = [
        BETA_2 * s + (1 - BETA_2) * g * g
        for s, g in zip(squares, gradients, strict=True)
    ]
    rate = setting.outer_rate * jnp.sqrt(1 - BETA_2**count)
    rate /= 1 - BETA_1**count
    parameters = [
        w - rate * m / (jnp.sqrt(s) + EPSILON)
        for w, m, s in zip(parameters, means, squares, strict=True)
    ]
    return (parameters, means, squares, count), loss


def make(setting, parameters, batches, scan=True):
    """Returns a function that trains for a turn and returns its mean loss."""
    del batches
    parameters = [jnp.asarray(p) for p in parameters]
    moments = [[jnp.zeros_like(p) for p in parameters] for _ in range(2)]
    state = (parameters, *moments, jnp.zeros(()))
    root = jax.random.key(0)

    def step(state, index):
        return _meta_step(setting, state, jax.random.fold_in(root, index))

    steps = setting.meta_steps
    whole = jax.jit(
        lambda state, first: jax.lax.scan(
            step, state, first + jnp.arange(steps)
        ),
        donate_argnums=0,
    )
    single = jax.jit(step, donate_argnums=0)

    def turn(i):
        nonlocal state
        if scan:
            state, losses = whole(state, i * steps)
            return float(losses.mean())
        total = 0.0
        for index in range(i * steps, (i + 1) * steps):
            state, loss = single(state, index)
            total += loss
        return float(total) / steps

    return turn
