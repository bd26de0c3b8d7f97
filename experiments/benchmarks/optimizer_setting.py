"""Settings that the contenders of the optimizer benchmark share."""

from __future__ import annotations

import dataclasses

import numpy as np

UNITS = 20
PREPROCESSING = 10.0
OUTPUT_SCALE = 0.01
ADAM_EPSILON = 1e-7


@dataclasses.dataclass(frozen=True)
class Setting:
    """Settings of a measurement.

    Attributes:
        parameters: Number of parameters that the optimizer trains.
        tensors: Number of tensors that hold them.
        window: Number of steps in a window of meta-training. 0 measures single
            steps of the optimizer.
        meta_rate: Rate of Adam in meta-training.
    """

    parameters: int
    tensors: int
    window: int
    meta_rate: float = 1e-3


def tensors(setting: Setting, seed: int) -> list[np.ndarray]:
    """Returns the parameters, float32 matrices with 100 rows."""
    rng = np.random.default_rng(seed)
    columns, rest = divmod(setting.parameters, 100 * setting.tensors)
    if rest or not columns:
        raise ValueError(
            f"--parameters must be a multiple of 100 * {setting.tensors}, as "
            f"--tensors={setting.tensors}. Received: {setting.parameters}"
        )
    shapes = [(100, columns)] * setting.tensors
    return [rng.normal(size=s).astype("float32") for s in shapes]


def lstm_weights() -> list[np.ndarray]:
    """Returns weights of two layers and the readout, in Keras's layout."""
    rng = np.random.default_rng(7)
    weights, inputs = [], 2
    for _ in range(2):
        weights += [
            0.3 * rng.normal(size=[inputs, 4 * UNITS]),
            0.3 * rng.normal(size=[UNITS, 4 * UNITS]),
            np.repeat([0.0, 1.0, 0.0, 0.0], UNITS),
        ]
        inputs = UNITS
    weights += [0.3 * rng.normal(size=[UNITS, 1]), np.zeros([1])]
    return [w.astype("float32") for w in weights]
