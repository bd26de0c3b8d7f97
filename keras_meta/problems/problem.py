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

    To add one, implement `variables`, `draw` and `losses`. To save an
    `OptimizerLearner` with it, register the class with Keras and implement
    `get_config`; what a config cannot hold, such as arrays, goes through
    `save_assets` and `load_assets`.

    Example:
    >>> import keras
    >>> import keras_meta
    >>> import tensorflow as tf
    >>>
    >>> @keras.saving.register_keras_serializable("example")
    ... class Bowls(keras_meta.problems.Problem):
    ...     # Bowls of random centers.
    ...     def __init__(self, size):
    ...         self.size = size
    ...         self._variables = [keras.Variable(tf.zeros([size]))]
    ...
    ...     @property
    ...     def variables(self):
    ...         return self._variables
    ...
    ...     def draw(self, seed, index, instances):
    ...         numbers = tf.cast(index, tf.int32) + tf.range(instances)
    ...         centers = tf.map_fn(
    ...             lambda i: tf.random.stateless_normal(
    ...                 [self.size], tf.stack([tf.cast(seed, tf.int32), i])
    ...             ),
    ...             numbers,
    ...             fn_output_signature=tf.float32,
    ...         )
    ...         return [tf.zeros([instances, self.size])], centers
    ...
    ...     def losses(
    ...         self, params, data, step, *, second_order=False, xla=None
    ...     ):
    ...         return tf.reduce_sum(tf.square(params[0] - data), axis=-1)
    ...
    ...     def get_config(self):
    ...         return {"size": self.size}
    >>>
    >>> rule = keras_meta.CoordinatewiseLSTM([4])
    >>> learner = keras_meta.OptimizerLearner(rule, Bowls(3), steps=5)
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

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor.

        Raises:
            NotImplementedError: If a class does not implement it.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `get_config` for a learner "
            "to be saved with it. Return the arguments of its constructor, and "
            "decorate the class with "
            "@keras.saving.register_keras_serializable(). To save what is "
            "learned without the problem, use `learner.save_weights`, "
            "ModelCheckpoint(..., save_weights_only=True), or "
            "keras_meta.optimizers.LearnedOptimizer(learner.rule)"
            ".save_to_preset(...)."
        )

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Problem:
        """Makes a problem from `get_config`'s dict."""
        return cls(**config)

    def save_assets(self, folder: str) -> None:
        """Writes what the config does not hold; nothing by default.

        Args:
            folder: A folder that exists and belongs to this problem.
        """

    def load_assets(self, folder: str) -> None:
        """Reads what `save_assets` wrote.

        Args:
            folder: The folder.
        """
