"""Recurrent networks for parameters, for tensors, and for all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import as_seed
from keras_meta.checks import check_between
from keras_meta.checks import check_bool
from keras_meta.checks import check_positive_number
from keras_meta.update_rules import coordinates
from keras_meta.update_rules.hierarchical_network import network_step
from keras_meta.update_rules.recompute import recompute
from keras_meta.update_rules.tensor_columns import TensorColumns
from keras_meta.update_rules.units import as_units
from keras_meta.update_rules.update_rule import UpdateRule

# Scale of initial weights, divided by the root of the number of inputs.
_SCALE = 0.5
_GATE_BIAS = 2.2
_INPUT_DECAY_BIAS = 2.2
_SCALE_DECAY_BIAS = 3.2
_RATE_MOMENTUM_LOGIT = 3.2
_STEP_OFFSET = -1.0
# The last time scale is a power of 1/2 that must be a normal float32.
_MOST_TIME_SCALES = 127


@keras.saving.register_keras_serializable("keras_meta")
class HierarchicalRNN(UpdateRule):
    """A GRU for each parameter, one for each tensor and one for all of them.

    The inputs of a parameter's GRU are its gradient, averaged over several
    time scales and divided by its own magnitude; products of neighbouring
    averages; how noisy they are; and how its rate compares with the others.
    The mean over a tensor's parameters feeds the tensor's GRU, and the mean
    over all tensors feeds the global GRU. These two feed back as biases of the
    gates below them.

    Readouts of a parameter's state give the direction of its step, whose mean
    length over the tensor is 1; the logarithm of its rate; and how long
    gradients and their magnitudes are averaged. All parameters share the
    weights, so the rule fits any model.

    This is the published network, with three differences. In the published
    code, the global GRU sees only the last tensor, which is a bug. That code
    also treats gradients below 1e-6 as noise. And meta-training starts
    elsewhere: here, shortcuts start at equal weights, attention at random
    weights, and all rates at one value.

    Args:
        units: Units of the parameters', the tensors' and the global GRU.
        time_scales: Number of averages of the gradient, from 2 to 127. Each
            covers twice the time of the previous one.
        initial_rate: Rate of all parameters before the first step.
        attention: Whether to take gradients at points that the network
            chooses, instead of at the parameters. `update` then returns those
            points, and `final` returns the parameters.
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
        **kwargs: Any,
    ):
        # Half-precision gradients would be too coarse to learn from.
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        check_between(2, _MOST_TIME_SCALES, time_scales=time_scales)
        check_positive_number(initial_rate=initial_rate)
        check_bool(attention=attention)
        self.units = as_units(units, "the three levels of networks", 3)
        self.time_scales = time_scales
        self.initial_rate = initial_rate
        self.attention = self.attends = bool(attention)
        self.seed = as_seed(seed)
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

    def _add(
        self,
        name: str,
        shape: tuple[int, ...],
        value: float | str | None = "random",
    ) -> None:
        """Adds a weight: random, constant, or (`None`) spread over -1 to 1."""
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

    def init_state(self, params: Sequence[tf.Tensor]) -> dict[str, Any]:
        """Returns the state of all GRUs, the averages and the rates.

        Tensors are `[..., coordinates]`, `[..., tensors * tasks]` or
        `[..., tasks]`.
        """
        tasks = 1
        if self.has_task_axis(params):
            tasks = params[0].shape[0] or tf.shape(params[0])[0]
        count = coordinates.count(params)

        def start(name, columns):
            value = tf.convert_to_tensor(self._by_name[f"{name}_start"])
            return tf.tile(value, [1, columns])

        def filled(value, *shape):
            return tf.fill(shape, tf.constant(value, self.compute_dtype))

        offsets = [tf.zeros_like(p) for p in params]
        return ({"offsets": offsets} if self.attention else {}) | {
            "parameter": start("parameter", count),
            "tensor": start("tensor", len(params) * tasks),
            "global": start("global", tasks),
            "input_decay": filled(0.0, 1, count),
            "scale_decay": filled(0.0, 1, count),
            "averages": filled(0.0, self.time_scales, count),
            "squares": filled(0.0, self.time_scales, count),
            "log_rate": filled(math.log(self.initial_rate), 1, count),
        }

    def update(
        self,
        params: Sequence[tf.Tensor],
        grads: Sequence[tf.Tensor],
        state: dict[str, Any],
    ) -> tuple[list[tf.Tensor], dict[str, Any]]:
        """Takes one step; see `UpdateRule.update`."""
        tasks = state["global"].shape[1]
        if tasks is None:
            tasks = tf.shape(state["global"])[1]
        tensors = TensorColumns.of(params, tasks)
        parameters, _ = self.final(params, state)
        moves, new_state = recompute(
            lambda *arguments: network_step(
                tensors, self.time_scales, *arguments
            ),
            coordinates.join(grads, self.compute_dtype)[tf.newaxis],
            {k: v for k, v in state.items() if k != "offsets"},
            {k: tf.convert_to_tensor(v) for k, v in self._by_name.items()},
        )
        moves = [coordinates.split(m[0], parameters) for m in moves]
        if self.attention:
            own, attended = moves
            offsets = [m - a for m, a in zip(own, attended, strict=True)]
            new_state |= {"offsets": offsets}
        points = [p - m for p, m in zip(parameters, moves[-1], strict=True)]
        return points, new_state

    def final(
        self, params: Sequence[tf.Tensor], state: dict[str, Any]
    ) -> tuple[Sequence[tf.Tensor], dict[str, Any]]:
        """Returns the parameters, which with attention differ from `params`."""
        if not self.attention:
            return params, state
        offsets = state["offsets"]
        parameters = [p - o for p, o in zip(params, offsets, strict=True)]
        zeros = [tf.zeros_like(o) for o in offsets]
        return parameters, {**state, "offsets": zeros}

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
