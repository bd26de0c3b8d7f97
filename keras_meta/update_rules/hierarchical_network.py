"""One step of the networks of a hierarchical RNN, as a function.

Inputs and outputs of a network have one column for each coordinate, tensor or
task; see `TensorColumns`.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from keras_meta.update_rules.tensor_columns import TensorColumns

# Largest absolute logarithm of a rate.
_LARGEST_LOG_RATE = 33.0
_TINY = 1e-16


def network_step(
    tensors: TensorColumns,
    time_scales: int,
    gradient: tf.Tensor,
    state: Mapping[str, tf.Tensor],
    weights: Mapping[str, tf.Tensor],
) -> tuple[list[tf.Tensor], dict[str, tf.Tensor]]:
    """Takes one step of the three networks.

    Args:
        tensors: Which columns belong to which tensor.
        time_scales: Number of averages of the gradient.
        gradient: `[1, coordinates]`.
        state: See `HierarchicalRNN.init_state`.
        weights: Weights of the networks and readouts, by name.

    Returns:
        The moves and the new state. The moves are those of the parameters,
        `[1, coordinates]`, and with attention also those to the points where
        the next gradient is taken.
    """
    averages, squares, scaled = _averages(gradient, state, time_scales)
    mean_log_rate = tensors.to_tensors(tensors.mean_of_all(state["log_rate"]))
    features = _features(
        scaled, squares, state["log_rate"] - tensors.spread(mean_log_rate)
    )

    to_parameter = _affine(weights, "tensor_to_parameter", state["tensor"])
    to_parameter += tensors.to_tensors(
        _affine(weights, "global_to_parameter", state["global"])
    )
    parameter = _gru(
        weights,
        "parameter",
        features,
        state["parameter"],
        tensors.spread(to_parameter),
    )
    tensor = _gru(
        weights,
        "tensor",
        tensors.mean(tf.concat([parameter, features], axis=0)),
        state["tensor"],
        tensors.to_tensors(
            _affine(weights, "global_to_tensor", state["global"])
        ),
    )
    everything = _gru(
        weights, "global", tensors.mean_of_tensors(tensor), state["global"]
    )

    def direction(name, shortcut):
        free = weights[name] @ parameter + weights[shortcut] @ scaled
        length = tf.sqrt(tensors.mean(tf.square(free)) + _TINY)
        return free / tensors.spread(length)

    step_log_rate = _clip(
        state["log_rate"] + _affine(weights, "rate_change", parameter)
    )
    momentum = tf.sigmoid(weights["rate_momentum_logit"])
    rate = tf.exp(step_log_rate + weights["step_offset"])
    moves = [rate * direction("direction", "shortcut")]
    if "attention" in weights:
        attended = direction("attention", "attention_shortcut")
        moves.append(tf.exp(step_log_rate) * attended)
    return moves, {
        "parameter": parameter,
        "tensor": tensor,
        "global": everything,
        "input_decay": tf.sigmoid(_affine(weights, "input_decay", parameter)),
        "scale_decay": tf.sigmoid(_affine(weights, "scale_decay", parameter)),
        "averages": averages,
        "squares": squares,
        "log_rate": momentum * state["log_rate"]
        + (1 - momentum) * step_log_rate,
    }


def _averages(
    gradient: tf.Tensor, state: Mapping[str, tf.Tensor], time_scales: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns averages, mean squares and scaled averages, by time scale."""
    # The square root of a decay doubles its time scale.
    exponents = tf.constant(
        [[2.0**-i] for i in range(time_scales)], gradient.dtype
    )
    decay = _power(state["input_decay"], exponents)
    averages = (1 - decay) * gradient + decay * state["averages"]
    decay = state["scale_decay"]
    squares = (1 - decay) * tf.square(averages) + decay * state["squares"]
    return (
        averages,
        squares,
        tf.asinh(averages * tf.math.rsqrt(squares + _TINY)),
    )


def _power(base: tf.Tensor, exponents: tf.Tensor) -> tf.Tensor:
    """Powers whose derivative at zero is zero instead of infinite."""
    is_zero = tf.equal(base, 0)
    power = tf.pow(tf.where(is_zero, tf.ones_like(base), base), exponents)
    return tf.where(is_zero, tf.zeros_like(power), power)


def _features(
    scaled: tf.Tensor, squares: tf.Tensor, relative_log_rate: tf.Tensor
) -> tf.Tensor:
    """Returns the inputs of the parameters' GRU.

    They are `[3 * time_scales, coordinates]`.
    """
    logs = tf.math.log(squares + _TINY)
    return tf.concat(
        [
            scaled,
            scaled[:-1] * scaled[1:],
            logs - tf.reduce_mean(logs, axis=0, keepdims=True),
            relative_log_rate,
        ],
        axis=0,
    )


def _affine(
    weights: Mapping[str, tf.Tensor], name: str, x: tf.Tensor
) -> tf.Tensor:
    return weights[name] @ x + weights[f"{name}_bias"]


def _gru(
    weights: Mapping[str, tf.Tensor],
    name: str,
    x: tf.Tensor,
    before: tf.Tensor,
    bias: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns a GRU's new state. `bias` acts on both gates and the content."""
    units = before.shape[0]
    gates = weights[f"{name}_gates"] @ tf.concat([x, before], axis=0)
    gates += weights[f"{name}_gates_bias"]
    if bias is not None:
        gates += bias[: 2 * units]
    reset, keep = tf.split(tf.sigmoid(gates), 2, axis=0)
    content = weights[f"{name}_content"] @ tf.concat([x, reset * before], 0)
    content += weights[f"{name}_content_bias"]
    if bias is not None:
        content += bias[2 * units :]
    return keep * before + (1 - keep) * tf.tanh(content)


def _clip(log_rate: tf.Tensor) -> tf.Tensor:
    """Clips, but passes the gradient through unchanged."""
    clipped = tf.clip_by_value(log_rate, -_LARGEST_LOG_RATE, _LARGEST_LOG_RATE)
    return log_rate + tf.stop_gradient(clipped - log_rate)
