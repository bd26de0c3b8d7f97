"""A policy of normally distributed actions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_meta.checks import check_positive
from keras_meta.checks import describe
from keras_meta.models.blocks import as_sizes
from keras_meta.reinforcement.append_log_std import AppendLogStd


def gaussian_mlp(
    observation_size: int,
    action_size: int,
    hidden: Sequence[int] = (100, 100),
    *,
    activation: str = "relu",
    initial_std: float = 1.0,
) -> keras.Sequential:
    """Builds a policy for `keras_meta.reinforcement.Gaussian`.

    The means come from a perceptron. The standard deviations are learned and
    do not depend on the observation. The defaults are those of navigation in
    the plane.

    Args:
        observation_size: Numbers in an observation.
        action_size: Coordinates of an action.
        hidden: Sizes of the hidden layers.
        activation: Activation of the hidden layers.
        initial_std: Where the standard deviations begin.

    Returns:
        A built model from `[n, observation_size]` to `[n, 2 * action_size]`.

    Raises:
        ValueError: If an argument has the wrong type or is out of range.

    Example:
    >>> gaussian_mlp(2, 2).count_params()
    10604

    References:
        - [Finn et al., 2017](https://arxiv.org/abs/1703.03400), section 5.3.
    """
    check_positive(observation_size=observation_size, action_size=action_size)
    _check_activation(activation)
    return keras.Sequential(
        [
            keras.Input([observation_size]),
            *(
                keras.layers.Dense(size, activation=activation)
                for size in as_sizes(hidden)
            ),
            keras.layers.Dense(action_size),
            AppendLogStd(initial_std),
        ],
        name="gaussian_mlp",
    )


def _check_activation(activation: Any) -> None:
    try:
        is_known = callable(keras.activations.get(activation))
    except (TypeError, ValueError):
        is_known = False
    if not is_known:
        raise ValueError(
            "`activation` must be a Keras activation or its name. Received: "
            f"activation={describe(activation)}"
        )
