"""Recurrent networks for parameters, tensors and the whole."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.update_rules import coordinates
from keras_meta.update_rules.recompute import recompute
from keras_meta.update_rules.update_rule import UpdateRule

# Of weights, over the root of their number of inputs.
_SCALE = 0.5
_GATE_BIAS = 2.2
_INPUT_DECAY_BIAS = 2.2
_SCALE_DECAY_BIAS = 3.2
_RATE_MOMENTUM_LOGIT = 3.2
_STEP_OFFSET = -1.0
# Logarithms of rates stay within.
_LARGEST_LOG_RATE = 33.0
_TINY = 1e-16


@keras.saving.register_keras_serializable("keras_meta")
class HierarchicalRNN(UpdateRule):
    """A GRU for each parameter, one for each tensor and one for all of them.

    A parameter's GRU sees its gradient, averaged over several time scales
    and divided by its own size, products of neighbouring averages, how noisy
    they are, and how its rate compares with the others. The mean over a
    tensor's parameters goes to the tensor's GRU, the mean over all tensors to
    the global one; these act back as biases of the gates below. Readouts of a
    parameter's state decide the direction of its step, whose length is 1 in
    the mean over the tensor, the logarithm of its rate, and how long
    gradients and their sizes are averaged. The weights are shared by all
    parameters, so the rule fits any model.

    This is the published network but for one fault of its code, in which
    the global GRU sees the last tensor alone.

    Args:
        units: Units of the parameters', the tensors' and the global GRU.
        time_scales: Number of averages of the gradient, each over twice the
            time of the one before.
        initial_rate: Rate of all parameters before the first step.
        attention: Whether gradients are taken elsewhere than at the
            parameters, at points that the network chooses too. The values
            that `update` returns are those points then, and `final` returns
            the parameters.
        seed: Seed of the initial weights.

    Raises:
        ValueError: If an argument is out of range.

    References:
        - [Wichrowska et al., 2017](https://arxiv.org/abs/1703.04813),
          section 3.
    """

    fits_any_model = True

    def __init__(
        self,
        units: Sequence[int] = (10, 20, 20),
        *,
        time_scales: int = 4,
        initial_rate: float = 1e-3,
        attention: bool = False,
        seed: int | None = None,
        **kwargs,
    ):
        # Gradients of half precision would be too coarse to learn from.
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        units = [*units]
        if len(units) != 3 or not all(
            isinstance(n, int) and n > 0 for n in units
        ):
            raise ValueError(
                "`units` must be three positive integers, for parameters, "
                f"tensors and all of them. Received: units={units}"
            )
        if not isinstance(time_scales, int) or time_scales < 2:
            raise ValueError(
                "`time_scales` must be an integer, at least 2. Received: "
                f"time_scales={time_scales!r}"
            )
        if not initial_rate > 0:
            raise ValueError(
                "`initial_rate` must be positive. Received: "
                f"initial_rate={initial_rate!r}"
            )
        self.units = units
        self.time_scales = time_scales
        self.initial_rate = initial_rate
        self.attention = attention
        self.seed = seed
        self._by_name: dict[str, keras.Variable] = {}
        self._add_grus()
        self._add_readouts()

    def _add_grus(self) -> None:
        parameter, tensor, everything = self.units
        features = 3 * self.time_scales
        for name, inputs, units in (
            ("parameter", features, parameter),
            ("tensor", parameter + features, tensor),
            ("global", tensor, everything),
        ):
            self._add(f"{name}_gates", (2 * units, inputs + units))
            self._add(f"{name}_content", (units, inputs + units))
            self._add(f"{name}_gates_bias", (2 * units, 1), _GATE_BIAS)
            self._add(f"{name}_content_bias", (units, 1), 0.0)
            self._add(f"{name}_start", (units, 1), None)
        for name, inputs, units in (
            ("tensor_to_parameter", tensor, parameter),
            ("global_to_parameter", everything, parameter),
            ("global_to_tensor", everything, tensor),
        ):
            self._add(name, (3 * units, inputs))
            self._add(f"{name}_bias", (3 * units, 1), 0.0)

    def _add_readouts(self) -> None:
        units = self.units[0]
        self._add("direction", (1, units))
        self._add("shortcut", (1, self.time_scales), 1 / self.time_scales)
        if self.attention:
            self._add("attention", (1, units))
            self._add(
                "attention_shortcut",
                (1, self.time_scales),
                1 / self.time_scales,
            )
        self._add("rate_change", (1, units), 0.0)
        self._add("rate_change_bias", (1, 1), 0.0)
        self._add("rate_momentum_logit", (), _RATE_MOMENTUM_LOGIT)
        self._add("step_offset", (), _STEP_OFFSET)
        self._add("input_decay", (1, units))
        self._add("input_decay_bias", (1, 1), _INPUT_DECAY_BIAS)
        self._add("scale_decay", (1, units))
        self._add("scale_decay_bias", (1, 1), _SCALE_DECAY_BIAS)

    def _add(self, name: str, shape, value: float | str | None = "random"):
        """Adds a weight: random, of one value, or (`None`) from -1 to 1."""
        seed = None if self.seed is None else self.seed + len(self._by_name)
        initializers = keras.initializers
        if value == "random":
            scale = _SCALE / math.sqrt(shape[-1])
            initializer = initializers.RandomNormal(stddev=scale, seed=seed)
        elif value is None:
            initializer = initializers.RandomUniform(-1.0, 1.0, seed)
        else:
            initializer = initializers.Constant(value)
        self._by_name[name] = self.add_weight(
            name=name, shape=shape, initializer=initializer
        )

    def attach(self, variables: Sequence[keras.Variable], steps: int) -> None:
        """Learns whether parameters carry a task axis."""
        self._ranks = [len(v.shape) for v in variables]
        super().attach(variables, steps)

    def init_state(self, params) -> dict[str, Any]:
        """Returns the state of all GRUs, averages and rates.

        Tensors are `[..., coordinates]`, `[..., tensors * tasks]` or
        `[..., tasks]`.
        """
        has_tasks = params[0].shape.rank > self._ranks[0]
        tasks = 1
        if has_tasks:
            tasks = params[0].shape[0] or tf.shape(params[0])[0]
        count = coordinates.count(params)

        def start(name, columns):
            value = tf.convert_to_tensor(self._by_name[f"{name}_start"])
            return tf.tile(value, [1, columns])

        def filled(value, *shape):
            return tf.fill(shape, tf.constant(value, self.compute_dtype))

        parameters = {"parameters": list(params)} if self.attention else {}
        return parameters | {
            "parameter": start("parameter", count),
            "tensor": start("tensor", len(params) * tasks),
            "global": start("global", tasks),
            "input_decay": filled(0.0, 1, count),
            "scale_decay": filled(0.0, 1, count),
            "averages": filled(0.0, self.time_scales, count),
            "squares": filled(0.0, self.time_scales, count),
            "log_rate": filled(math.log(self.initial_rate), 1, count),
        }

    def update(self, params, grads, state):
        """Takes one step; see `UpdateRule.update`."""
        tasks = state["global"].shape[1]
        if tasks is None:
            tasks = tf.shape(state["global"])[1]
        tensors = _Tensors.of(params, tasks)
        parameters = state.get("parameters", params)
        moves, new_state = recompute(
            lambda *arguments: _step(tensors, self.time_scales, *arguments),
            coordinates.join(grads, self.compute_dtype)[tf.newaxis],
            {k: v for k, v in state.items() if k != "parameters"},
            {k: tf.convert_to_tensor(v) for k, v in self._by_name.items()},
        )
        moved = [
            [p - m for p, m in zip(parameters, part, strict=True)]
            for part in (coordinates.split(m[0], parameters) for m in moves)
        ]
        if self.attention:
            new_state |= {"parameters": moved[0]}
        return moved[-1], new_state

    def final(self, params, state):
        """Returns the parameters, which `params` are not with attention."""
        return state.get("parameters", params)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "units": self.units,
            "time_scales": self.time_scales,
            "initial_rate": self.initial_rate,
            "attention": self.attention,
            "seed": self.seed,
        }


@dataclasses.dataclass(frozen=True)
class _Tensors:
    """Which columns belong to which tensor of which task.

    Attributes:
        sizes: Coordinates of each tensor of one task.
        tasks: Number of tasks.
    """

    sizes: list[int]
    tasks: int | tf.Tensor

    @classmethod
    def of(cls, params, tasks) -> _Tensors:
        sizes = [coordinates.count([p]) // tasks for p in params]
        return cls(sizes, tasks)

    def mean(self, x: tf.Tensor) -> tf.Tensor:
        """`[n, coordinates]` to means, `[n, tensors * tasks]`."""
        parts = tf.split(x, [size * self.tasks for size in self.sizes], axis=1)
        means = [
            tf.reduce_mean(tf.reshape(part, [x.shape[0], self.tasks, size]), -1)
            for part, size in zip(parts, self.sizes, strict=True)
        ]
        return tf.concat(means, axis=1)

    def spread(self, y: tf.Tensor) -> tf.Tensor:
        """`[n, tensors * tasks]` to each coordinate, `[n, coordinates]`."""
        parts = tf.split(y, [self.tasks] * len(self.sizes), axis=1)
        spread = [
            tf.repeat(part, size, axis=1)
            for part, size in zip(parts, self.sizes, strict=True)
        ]
        return tf.concat(spread, axis=1)

    def mean_of_tensors(self, y: tf.Tensor) -> tf.Tensor:
        """`[n, tensors * tasks]` to means over tensors, `[n, tasks]`."""
        shape = [y.shape[0], len(self.sizes), self.tasks]
        return tf.reduce_mean(tf.reshape(y, shape), axis=1)

    def to_tensors(self, z: tf.Tensor) -> tf.Tensor:
        """`[n, tasks]` to each tensor, `[n, tensors * tasks]`."""
        return tf.tile(z, [1, len(self.sizes)])

    def mean_of_all(self, x: tf.Tensor) -> tf.Tensor:
        """`[n, coordinates]` to means over all of a task, `[n, tasks]`."""
        count = sum(self.sizes)
        shares = [tf.fill([self.tasks], size / count) for size in self.sizes]
        weights = tf.cast(tf.concat(shares, axis=0), x.dtype)
        return len(self.sizes) * self.mean_of_tensors(self.mean(x) * weights)


def _step(tensors: _Tensors, time_scales: int, gradient, state, weights):
    """Returns moves and the state.

    The moves are those of the parameters, `[1, coordinates]`, and with
    attention those to where the next gradient is taken.
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


def _averages(gradient, state, time_scales: int):
    """Returns averages, mean squares and scaled averages, by time scale."""
    # The square root of a decay doubles the time.
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
    """Powers whose derivative at zero is zero, where it is infinite."""
    is_zero = tf.equal(base, 0)
    power = tf.pow(tf.where(is_zero, tf.ones_like(base), base), exponents)
    return tf.where(is_zero, tf.zeros_like(power), power)


def _features(scaled, squares, relative_log_rate) -> tf.Tensor:
    """Returns what a parameter's GRU sees, `[3 * time_scales, coordinates]`."""
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


def _affine(weights, name: str, x: tf.Tensor) -> tf.Tensor:
    return weights[name] @ x + weights[f"{name}_bias"]


def _gru(weights, name: str, x, before, bias=None) -> tf.Tensor:
    """Returns a GRU's new state; `bias` acts on both gates and content."""
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
    """Clips, and lets the gradient through as if it did not."""
    clipped = tf.clip_by_value(log_rate, -_LARGEST_LOG_RATE, _LARGEST_LOG_RATE)
    return log_rate + tf.stop_gradient(clipped - log_rate)
