"""Checks of what a `PolicyLearner` is given."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_finite_values
from keras_meta.checks import describe
from keras_meta.reinforcement.advantages import Advantages
from keras_meta.reinforcement.categorical import Categorical
from keras_meta.reinforcement.dice import DiCE
from keras_meta.reinforcement.distribution import Distribution
from keras_meta.reinforcement.environment import Environment
from keras_meta.reinforcement.gaussian import Gaussian
from keras_meta.reinforcement.likelihood_ratio import LikelihoodRatio
from keras_meta.reinforcement.loaded_dice import LoadedDiCE
from keras_meta.reinforcement.policy_objective import PolicyObjective
from keras_meta.reinforcement.score_function import ScoreFunction

OBJECTIVES: Mapping[str, Callable[[], PolicyObjective]] = {
    "dice": DiCE,
    "likelihood_ratio": LikelihoodRatio,
    "loaded_dice": LoadedDiCE,
    "score_function": ScoreFunction,
}
_DISTRIBUTIONS: Mapping[str, Callable[[], Distribution]] = {
    "categorical": Categorical,
    "gaussian": Gaussian,
}


def as_policy_objective(value: PolicyObjective | str) -> PolicyObjective:
    """Returns a policy objective; raises if the name is unknown."""
    return _get("objective", value, PolicyObjective, OBJECTIVES)


def as_distribution(value: Distribution | str) -> Distribution:
    """Returns a distribution of actions; raises if the name is unknown."""
    return _get("distribution", value, Distribution, _DISTRIBUTIONS)


def check_settings(environment: Any, advantages: Any) -> None:
    """Requires an environment and `Advantages`; raises otherwise."""
    for name, value, kind in (
        ("environment", environment, Environment),
        ("advantages", advantages, Advantages),
    ):
        if not isinstance(value, kind):
            raise TypeError(
                f"`{name}` must be a keras_meta.reinforcement."
                f"{kind.__name__}. Received: {name}={describe(value)}"
            )


def check_no_loss(arguments: Mapping[str, Any]) -> None:
    """Checks arguments of `compile`; raises on a loss or a metric."""
    for name in ("loss", "loss_weights", "metrics", "weighted_metrics"):
        if arguments.get(name) is not None:
            raise ValueError(
                "A PolicyLearner learns from the rewards of its environment. "
                f"Received: {name}={describe(arguments[name])} in `compile`. "
                "Leave it out."
            )


def as_tasks(tasks: Any) -> tf.Tensor:
    """Returns tasks as numbers that environments compute with, or raises."""
    refusal = (
        "Tasks must be an array of numbers, `[tasks, ...]`, as "
        f"`environment.draw_tasks` returns them. Received: {describe(tasks)}"
    )
    try:
        tensor = tf.convert_to_tensor(tasks)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(refusal) from None
    is_real = tensor.dtype.is_floating or tensor.dtype.is_integer
    if not is_real or tensor.shape.rank == 0:
        raise ValueError(refusal)
    if not tensor.dtype.is_floating:
        return tensor
    if tf.executing_eagerly():
        check_finite_values(tasks=tensor.numpy())
    return tf.cast(tensor, keras.config.floatx())


def _get(name: str, value: Any, kind: type, by_name: Mapping) -> Any:
    if isinstance(value, kind):
        return value
    if isinstance(value, str) and value in by_name:
        return by_name[value]()
    raise ValueError(
        f"`{name}` must be a keras_meta.reinforcement.{kind.__name__} or one "
        f"of {sorted(by_name)}. Received: {name}={describe(value)}"
    )
