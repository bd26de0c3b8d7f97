"""The interface of all families of optimization problems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf


class Problem:
    """A family of optimization problems, whose instances a seed numbers.

    An instance has parameters to optimize, and data that stay the same while
    they are. Several instances are computed at once: every tensor has a
    leading axis of instances.
    """

    @property
    def variables(self) -> list[keras.Variable]:
        """Variables of the shapes and names of the parameters.

        The same ones each time. Update rules that learn something of each
        tensor look at them.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `variables`."
        )

    @property
    def supports_jit(self) -> bool:
        """Whether XLA can compile `draw` and `losses`, and well."""
        return True

    def draw(
        self, seed: int | tf.Tensor, index: int | tf.Tensor, instances: int
    ) -> tuple[list[tf.Tensor], Any]:
        """Draws consecutive instances, a pure function.

        Args:
            seed: Seed of the family's instances, an integer.
            index: Number of the first instance, at least 0.
            instances: How many.

        Returns:
            The first parameters, `[instances, *shape]` each, and data for
            `losses`, nested tensors: `[instances, ...]` each, or scalars
            that all instances share. Evolution strategies repeat instances.
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
            data: What `draw` returned.
            step: Number of the optimization step; each may have other
                examples.
            second_order: Whether a second derivative will be taken.
            xla: Whether XLA will compile the call.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `losses`."
        )
