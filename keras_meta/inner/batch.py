"""Examples of tasks."""

from __future__ import annotations

from typing import Any
from typing import NamedTuple

import tensorflow as tf


class Batch(NamedTuple):
    """What one step learns from.

    Attributes:
        x: Inputs, nested as the model expects them, each `[tasks, n, ...]`.
        y: Labels, `[tasks, n, ...]`.
        sample_weight: Weights of the examples, `[tasks, n]`, or `None`.
    """

    x: Any
    y: tf.Tensor
    sample_weight: tf.Tensor | None = None
