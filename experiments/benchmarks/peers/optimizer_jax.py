"""JAX: the coordinate-wise LSTM written down straightforwardly."""

import math

import jax
import jax.numpy as jnp

from experiments.benchmarks import optimizer_setting as setting_lib


def _features(g):
    p = setting_lib.PREPROCESSING
    size = jnp.abs(g)
    large = size >= math.exp(-p)
    log = jnp.log(jnp.where(large, size, 1.0)) / p
    return jnp.stack(
        [
            jnp.where(large, log, -1.0),
            jnp.where(large, jnp.sign(g), math.exp(p) * g),
        ],
        -1,
    )


def _lstm(weights, x, state):
    kernel, recurrent, bias = weights
    h, c = state
    i, f, g, o = jnp.split(x @ kernel + h @ recurrent + bias, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _update(weights, params, state):
    grads = [0.1 * p for p in params]
    x = _features(jnp.concatenate([g.ravel() for g in grads]))
    new = []
    for layer, before in zip((weights[:3], weights[3:6]), state, strict=True):
        x, c = _lstm(layer, x, before)
        new.append((x, c))
    moves = setting_lib.OUTPUT_SCALE * (x @ weights[6] + weights[7])[:, 0]
    moved, at = [], 0
    for p in params:
        moved.append(p + moves[at : at + p.size].reshape(p.shape))
        at += p.size
    return moved, new


def _initial_state(params):
    zeros = jnp.zeros([sum(p.size for p in params), setting_lib.UNITS])
    return [(zeros, zeros), (zeros, zeros)]


def make(setting, parameters, _):
    params = [jnp.asarray(p) for p in parameters]
    weights = [jnp.asarray(w) for w in setting_lib.lstm_weights()]
    if setting.window:
        return _make_window(setting, params, weights)

    def step(weights, params, state):
        params, state = _update(weights, params, state)
        return params, state, sum(p.sum() for p in params)

    compiled = jax.jit(step, donate_argnums=(1, 2))
    carry = params, jax.tree.map(lambda x: x + 0.0, _initial_state(params))

    def run(i):
        nonlocal carry
        *carry, total = compiled(weights, *carry)
        return float(total)

    return run


def _loss(params):
    return sum(jnp.square(p).sum() / 20 for p in params)


def _make_window(setting, params, weights):
    def window(weights):
        def step(carry, _):
            params, state = carry
            # The optimizer sees gradients as constants.
            seen = [jax.lax.stop_gradient(p) for p in params]
            moved, state = _update(weights, seen, state)
            moved = [
                p + (m - s) for p, m, s in zip(params, moved, seen, strict=True)
            ]
            return (moved, state), _loss(moved)

        _, losses = jax.lax.scan(
            step, (params, _initial_state(params)), None, setting.window
        )
        return losses.sum(), losses[-1]

    def adam(weights, first, second, count):
        (_, final), grads = jax.value_and_grad(window, has_aux=True)(weights)
        count += 1
        first = [0.9 * m + 0.1 * g for m, g in zip(first, grads, strict=True)]
        second = [
            0.999 * v + 0.001 * g * g
            for v, g in zip(second, grads, strict=True)
        ]
        rate = setting.meta_rate
        rate *= jnp.sqrt(1 - 0.999**count) / (1 - 0.9**count)
        weights = [
            w - rate * m / (jnp.sqrt(v) + setting_lib.ADAM_EPSILON)
            for w, m, v in zip(weights, first, second, strict=True)
        ]
        return weights, first, second, count, final

    compiled = jax.jit(adam)
    zeros = [jnp.zeros_like(w) for w in weights]
    carry = weights, zeros, zeros, jnp.zeros([])

    def run(i):
        nonlocal carry
        *carry, final = compiled(*carry)
        return float(final)

    return run
