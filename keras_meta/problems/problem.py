"""The interface of families of optimization problems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


class Problem:
    """A family of optimization problems.

    A seed and an index identify an instance. It has parameters to optimize,
    and data that stay fixed meanwhile. Several instances are computed at once,
    so every tensor has a leading instance axis.
    """

    @property
    def variables(self) -> list[keras.Variable]:
        """Variables with the shapes and names of the parameters.

        They are the same each time. Update rules that learn weights for each
        tensor use them.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `variables`."
        )

    @property
    def supports_jit(self) -> bool:
        """Whether XLA can compile `draw` and `losses` efficiently."""
        return True

    def draw(
        self, seed: int | tf.Tensor, index: int | tf.Tensor, instances: int
    ) -> tuple[list[tf.Tensor], Any]:
        """Draws consecutive instances. Must be a pure function.

        Args:
            seed: Seed of the instances, an integer.
            index: Index of the first instance, at least 0.
            instances: Number of instances.

        Returns:
            The initial parameters, `[instances, *shape]` each, and data for
            `losses`. Data are nested tensors, `[instances, ...]` each, or
            scalars that all instances share. Evolution strategies repeat
            instances.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `draw`."
        )

    def losses(
        self,
        params: Sequence[tf.Tensor],
        data: Any,
        step: int | tf.Tensor,
        *,
        second_order: bool = False,
        xla: bool | None = None,
    ) -> tf.Tensor:
        """Returns the losses of all instances, `[instances]`.

        Args:
            params: The parameters, `[instances, *shape]` each.
            data: The data that `draw` returned.
            step: Index of the optimization step. Each step may use different
                examples.
            second_order: Whether a second derivative will be taken.
            xla: Whether XLA will compile the call.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `losses`."
        )
