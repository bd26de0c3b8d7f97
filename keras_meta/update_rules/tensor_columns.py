"""Which columns of joined coordinates belong to which tensor."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tensorflow as tf

from keras_meta.update_rules import coordinates


@dataclasses.dataclass(frozen=True)
class TensorColumns:
    """Which columns belong to which tensor of which task.

    Attributes:
        sizes: Number of coordinates in each tensor of one task.
        tasks: Number of tasks.
    """

    sizes: list[int]
    tasks: int | tf.Tensor

    @classmethod
    def of(
        cls, params: Sequence[tf.Tensor], tasks: int | tf.Tensor
    ) -> TensorColumns:
        """Returns the columns of parameters, as `coordinates` joins them."""
        sizes = [coordinates.count([p]) // tasks for p in params]
        return cls(sizes, tasks)

    def mean(self, x: tf.Tensor) -> tf.Tensor:
        """Averages `[n, coordinates]` by tensor, `[n, tensors * tasks]`."""
        parts = tf.split(x, [size * self.tasks for size in self.sizes], axis=1)
        sums = [
            tf.reduce_sum(tf.reshape(part, [x.shape[0], self.tasks, size]), -1)
            for part, size in zip(parts, self.sizes, strict=True)
        ]
        # The mean over no coordinates is 0.
        means = [
            tf.math.divide_no_nan(total, tf.cast(size, x.dtype))
            for total, size in zip(sums, self.sizes, strict=True)
        ]
        return tf.concat(means, axis=1)

    def spread(self, y: tf.Tensor) -> tf.Tensor:
        """Spreads `[n, tensors * tasks]` to coordinates, `[n, coordinates]`."""
        parts = tf.split(y, [self.tasks] * len(self.sizes), axis=1)
        spread = [
            tf.repeat(part, size, axis=1)
            for part, size in zip(parts, self.sizes, strict=True)
        ]
        return tf.concat(spread, axis=1)

    def mean_of_tensors(self, y: tf.Tensor) -> tf.Tensor:
        """Averages `[n, tensors * tasks]` over tensors, `[n, tasks]`."""
        shape = [y.shape[0], len(self.sizes), self.tasks]
        return tf.reduce_mean(tf.reshape(y, shape), axis=1)

    def to_tensors(self, z: tf.Tensor) -> tf.Tensor:
        """Spreads `[n, tasks]` to tensors, `[n, tensors * tasks]`."""
        return tf.tile(z, [1, len(self.sizes)])

    def mean_of_all(self, x: tf.Tensor) -> tf.Tensor:
        """Averages `[n, coordinates]` by task, `[n, tasks]`."""
        sizes = tf.cast(tf.stack(self.sizes), x.dtype)
        weights = tf.repeat(sizes / tf.reduce_sum(sizes), self.tasks)
        return len(self.sizes) * self.mean_of_tensors(self.mean(x) * weights)
