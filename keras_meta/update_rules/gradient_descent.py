"""Gradient descent with fixed or learned rates."""

from __future__ import annotations

import collections
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_at_least
from keras_meta.checks import check_choice
from keras_meta.checks import check_finite_number
from keras_meta.checks import check_finite_values
from keras_meta.checks import check_positive_number
from keras_meta.checks import describe
from keras_meta.checks import is_number
from keras_meta.update_rules.update_rule import UpdateRule

_SHARINGS = (
    None,
    "scalar",
    "layer",
    "step",
    "layer_step",
    "parameter",
    "schedule",
)


@keras.saving.register_keras_serializable("keras_meta")
class GradientDescent(UpdateRule):
    """Gradient descent, `params - rate * gradient`.

    Args:
        learning_rate: The rate, a float. With `learn`, its initial value, a
            float or a Keras initializer.
        learn: How rates are learned: `None` (a fixed rate), `"scalar"` (one
            rate for everything), `"layer"` (one per layer), `"step"` (one per
            step), `"layer_step"` (one per layer and step, as in MAML++),
            `"parameter"` (one per weight, as in Meta-SGD) or `"schedule"`
            (`knots` numbers for all steps). Rates of a schedule stay
            positive, others may become negative. Steps beyond the trained
            number use the last step's rate.
        clip_norm: If given, scales each task's gradient over all variables to
            at most this Euclidean norm.
        clip_value: If given, clips gradients to `[-clip_value, clip_value]`.
        knots: Logarithms of rates that a schedule learns, at equal distances
            from the first step to the last. It is linear in between. So 2
            learn an exponential decay, and 3 a rise before it as well.

    Raises:
        ValueError: If an argument is out of range.

    Example:
    >>> rule = GradientDescent(0.1)
    >>> params, state = [tf.constant([1.0, 2.0])], None
    >>> state = rule.init_state(params)
    >>> params, state = rule.update(params, [tf.constant([1.0, -1.0])], state)
    >>> params[0].numpy()
    array([0.9, 2.1], dtype=float32)

    References:
        - [Li et al., 2017](https://arxiv.org/abs/1707.09835), equation 1.
        - [Antoniou et al., 2019](https://arxiv.org/abs/1810.09502),
          section 4.
    """

    def __init__(
        self,
        learning_rate: float | keras.initializers.Initializer = 0.01,
        learn: str | None = None,
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        knots: int = 2,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_choice("learn", learn, _SHARINGS)
        bounds = {"clip_norm": clip_norm, "clip_value": clip_value}
        check_positive_number(
            **{k: v for k, v in bounds.items() if v is not None}
        )
        check_at_least(2, knots=knots)
        self.learning_rate = _as_rate(learning_rate, learn)
        self.learn = learn
        self.clip_norm = clip_norm
        self.clip_value = clip_value
        self.knots = int(knots)
        self.rates: list[keras.Variable] = []

    @property
    def counts_steps(self) -> bool:  # type: ignore[override]
        """Whether rates differ from step to step; see `UpdateRule`."""
        return self.learn in ("step", "layer_step", "schedule")

    def attach(self, variables: Sequence[keras.Variable], steps: int) -> None:
        """Creates the learned rates; see `UpdateRule.attach`."""
        owners = _owners(variables)
        layers = list(dict.fromkeys(owners))
        self._layer_of = [layers.index(owner) for owner in owners]
        self._steps = steps
        shapes: dict[str | None, list[tuple[str, tuple[int, ...]]]] = {
            None: [],
            "scalar": [("rate", ())],
            "step": [("rates", (steps,))],
            "layer": [("rates", (len(layers),))],
            "layer_step": [("rates", (len(layers), steps))],
            "parameter": [(f"rate_{v.name}", v.shape) for v in variables],
            "schedule": [("log_rates", (self.knots,))],
        }
        initializer = self.learning_rate
        if self.learn == "schedule":
            initializer = math.log(initializer)
        if isinstance(initializer, float):
            initializer = keras.initializers.Constant(initializer)
        self.rates = [
            self.add_weight(
                name=name,
                shape=shape,
                initializer=_fresh(initializer, i),
                autocast=False,
            )
            for i, (name, shape) in enumerate(shapes[self.learn])
        ]
        super().attach(variables, steps)

    def init_state(self, params: Sequence[tf.Tensor]) -> dict[str, Any]:
        """Returns the step counter, an int32 scalar."""
        return {"step": tf.zeros([], tf.int32)}

    def update(
        self,
        params: Sequence[tf.Tensor],
        grads: Sequence[tf.Tensor],
        state: dict[str, Any],
    ) -> tuple[list[tf.Tensor], dict[str, Any]]:
        """Takes one step; see `UpdateRule.update`."""
        grads = self._clip(grads)
        directions, state = self.direction(grads, state)
        params = [
            param - self._rate(i, state["step"], param.dtype) * move
            for i, (param, move) in enumerate(
                zip(params, directions, strict=True)
            )
        ]
        return params, {**state, "step": state["step"] + 1}

    def direction(
        self, grads: Sequence[tf.Tensor], state: dict[str, Any]
    ) -> tuple[Sequence[tf.Tensor], dict[str, Any]]:
        """Returns the step before multiplication by the rate, and the state."""
        return grads, state

    def _rate(self, i: int, step: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        if self.learn is None:
            return tf.constant(self.learning_rate, dtype)
        return tf.cast(self._learned_rate(i, step), dtype)

    def _learned_rate(self, i: int, step: tf.Tensor) -> tf.Tensor:
        if self.learn == "parameter":
            return tf.convert_to_tensor(self.rates[i])
        rate = tf.convert_to_tensor(self.rates[0])
        if self.learn == "schedule":
            return _at_step(rate, step, self._steps)
        if self.learn in ("layer", "layer_step"):
            rate = rate[self._layer_of[i]]
        if self.counts_steps:
            # A slice would not be vectorized over tasks, each with a counter.
            last = self._steps - 1
            is_it = tf.one_hot(tf.minimum(step, last), self._steps)
            rate = tf.reduce_sum(tf.cast(is_it, rate.dtype) * rate)
        return rate

    def _clip(self, grads: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        if self.clip_value is not None:
            bound = self.clip_value
            grads = [tf.clip_by_value(g, -bound, bound) for g in grads]
        if self.clip_norm is not None:
            ranks = list(map(len, self._require_attached()))
            grads = _clip_task_norms(grads, ranks, self.clip_norm)
        return grads

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        rate = self.learning_rate
        if not isinstance(rate, float):
            rate = keras.initializers.serialize(rate)
        return {
            **super().get_config(),
            "learning_rate": rate,
            "learn": self.learn,
            "clip_norm": self.clip_norm,
            "clip_value": self.clip_value,
            "knots": self.knots,
        }


def _as_rate(
    rate: Any, learn: str | None
) -> float | keras.initializers.Initializer:
    if learn == "schedule":
        check_positive_number(learning_rate=rate)
        return float(rate)
    if is_number(rate):
        check_finite_number(learning_rate=rate)
        return float(rate)
    if learn is None:
        raise ValueError(
            "`learning_rate` must be a number when the rate is not learned. "
            f"Received: learning_rate={describe(rate)}, learn=None. Pass a "
            "number, or `learn=` to learn rates from this initial value."
        )
    try:
        initializer = keras.initializers.get(rate)
    except (TypeError, ValueError):
        initializer = None
    # Keras accepts any function, but a function could not be saved.
    if not isinstance(initializer, keras.initializers.Initializer):
        raise ValueError(
            "`learning_rate` must be a number or a Keras initializer. "
            f"Received: learning_rate={describe(rate)}. For example, pass "
            "keras.initializers.Constant(0.1)."
        )
    if isinstance(initializer, keras.initializers.Constant):
        check_finite_values(learning_rate=initializer.value)
    return initializer


def _fresh(
    initializer: keras.initializers.Initializer, i: int
) -> keras.initializers.Initializer:
    """Returns a copy that draws different numbers for each weight."""
    config = initializer.get_config()
    if config.get("seed") is not None:
        config["seed"] += i
    return type(initializer).from_config(config)


def _clip_task_norms(
    grads: Sequence[tf.Tensor], ranks: Sequence[int], bound: float
) -> list[tf.Tensor]:
    """Clips the joint norm of each task, over all axes except a task axis."""
    axes = [
        list(range(g.shape.rank - rank, g.shape.rank))
        for g, rank in zip(grads, ranks, strict=True)
    ]
    square = tf.add_n(
        [
            tf.reduce_sum(tf.square(g), axis)
            for g, axis in zip(grads, axes, strict=True)
        ]
    )
    # At zero, where nothing is clipped, the square root's derivative is
    # infinite.
    too_long = square > bound**2
    norm = tf.sqrt(tf.where(too_long, square, tf.ones_like(square)))
    scale = tf.where(too_long, bound / norm, tf.ones_like(square))
    return [
        g * tf.reshape(scale, tf.concat([tf.shape(scale), [1] * rank], 0))
        for g, rank in zip(grads, ranks, strict=True)
    ]


def _owners(variables: Sequence[keras.Variable]) -> list[tuple[str, int]]:
    """Returns keys that identify the layers of variables.

    Layers of the same name in two submodels have the same path, so a count
    tells them apart.
    """
    seen = collections.Counter()
    owners = []
    for variable in variables:
        owners.append((variable.path.rpartition("/")[0], seen[variable.path]))
        seen[variable.path] += 1
    return owners


def _at_step(log_rates: tf.Tensor, step: tf.Tensor, steps: int) -> tf.Tensor:
    """Returns the rate of a schedule at a step.

    Args:
        log_rates: Logarithms of rates at equal distances, `[knots]`.
        step: Number of the step.
        steps: Steps from the first knot to the last.
    """
    knots = log_rates.shape[0]
    last = max(steps - 1, 1)
    share = tf.cast(tf.minimum(step, last), log_rates.dtype) / last
    places = tf.range(knots, dtype=log_rates.dtype)
    # Of the two knots beside the step. A gather would not be vectorized over
    # tasks, each with a counter.
    weights = tf.nn.relu(1 - tf.abs(share * (knots - 1) - places))
    return tf.exp(tf.reduce_sum(weights * log_rates))
