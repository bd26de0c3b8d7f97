"""Stein variational gradient descent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from typing import Self

import keras
import tensorflow as tf

from keras_meta.checks import check_at_least
from keras_meta.checks import check_number_at_least
from keras_meta.checks import check_positive_number
from keras_meta.kernels.full_product import full_product
from keras_meta.update_rules.update_rule import UpdateRule
from keras_meta.update_rules.update_rule import check_rule


@keras.saving.register_keras_serializable("keras_meta")
class SteinGradient(UpdateRule):
    """Moves particles toward a density, and apart from each other.

    With the inner loss `L`, the density of weights is proportional to
    `exp(-L / temperature)`. For particles `w[1], ..., w[M]` of one task and
    the kernel `k(v, w) = exp(-|v - w|^2 / h)`, another rule takes its step
    along

        g[i] = sum over j of (k(w[j], w[i]) * L'(w[j])
                              - temperature * dk(w[j], w[i]) / dw[j]) / M

    in place of the gradient `L'(w[i])`. So with one particle this is the
    other rule. The first term pulls particles downhill together, and the
    second pushes them apart. At the end they represent the density. The
    squared bandwidth `h` is the median of the squared distances between two
    particles of a task, divided by `log(M)`; it counts as a constant.

    Every row of the parameters is a particle of a task. Rows are ordered as
    `[particles, tasks]`, as those of `keras_meta.BayesianMAML` are.

    Args:
        rule: How a step is taken along the direction, an update rule.
        particles: Number of particles, `M`.
        temperature: Of the density. With a mean over `n` examples of a
            negative log-likelihood as the inner loss, `1 / n` makes it the
            posterior of a flat prior. 0 pushes nothing apart.
        bandwidth: `h`, positive, in squared units of the weights; by default
            the median.

    Raises:
        ValueError: If an argument is out of range.

    Example:
    >>> import keras_meta
    >>> rule = keras_meta.SteinGradient(
    ...     keras_meta.GradientDescent(0.1), particles=2, bandwidth=1.0
    ... )
    >>> rule.attach([keras.Variable([0.0])], steps=1)
    >>> params = [tf.constant([[-0.1], [0.1]])]
    >>> flat = [tf.zeros([2, 1])]
    >>> moved, _ = rule.update(params, flat, rule.init_state(params))
    >>> bool(moved[0][1, 0] > 0.1)  # Apart.
    True

    References:
        - [Liu and Wang, 2016](https://arxiv.org/abs/1608.04471), algorithm
          1.
    """

    def __init__(
        self,
        rule: UpdateRule,
        particles: int,
        *,
        temperature: float = 1.0,
        bandwidth: float | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_rule(rule)
        check_at_least(1, particles=particles)
        check_number_at_least(0, temperature=temperature)
        if bandwidth is not None:
            check_positive_number(bandwidth=bandwidth)
        self.rule = rule
        self.particles = int(particles)
        self.temperature = float(temperature)
        self.bandwidth = bandwidth
        self.needs_loss = rule.needs_loss
        self.fits_any_model = rule.fits_any_model
        self.attends = rule.attends
        self.counts_steps = rule.counts_steps

    def attach(self, variables: Sequence[keras.Variable], steps: int) -> None:
        """Attaches the other rule; see `UpdateRule.attach`."""
        self.rule.ensure_attached(variables, steps)
        super().attach(variables, steps)

    def init_state(self, params: Sequence[tf.Tensor]) -> Any:
        """Returns the other rule's state before the first step."""
        return self.rule.init_state(params)

    def observe(self, state: Any, losses: tf.Tensor) -> Any:
        """Gives the other rule the losses before a step."""
        return self.rule.observe(state, losses)

    def final(
        self, params: Sequence[tf.Tensor], state: Any
    ) -> tuple[Sequence[tf.Tensor], Any]:
        """Returns the other rule's result of an optimization."""
        return self.rule.final(params, state)

    def update(
        self,
        params: Sequence[tf.Tensor],
        grads: Sequence[tf.Tensor],
        state: Any,
    ) -> tuple[list[tf.Tensor], Any]:
        """Takes one step; see `UpdateRule.update`."""
        directions = self.directions(params, grads)
        return self.rule.update(params, directions, state)

    def directions(
        self, params: Sequence[tf.Tensor], grads: Sequence[tf.Tensor]
    ) -> list[tf.Tensor]:
        """Returns what the other rule gets in place of gradients.

        Args:
            params: The particles, `[particles * tasks, *shape]` each.
            grads: Gradients of the inner loss, of the same shapes.
        """
        if self.particles == 1:
            return list(grads)
        values = [self._apart(p) for p in params]
        distances = tf.add_n([_squared_distances(v) for v in values])
        bandwidth = self._bandwidths(distances)
        kernel = tf.exp(-distances / bandwidth[:, tf.newaxis, tf.newaxis])
        push = 2 * self.temperature / bandwidth
        return [
            self._direction(kernel, push, value, self._apart(g), g)
            for value, g in zip(values, grads, strict=True)
        ]

    def _direction(
        self,
        kernel: tf.Tensor,
        push: tf.Tensor,
        values: tf.Tensor,
        grads: tf.Tensor,
        like: tf.Tensor,
    ) -> tf.Tensor:
        """Returns the direction of one variable, in the shape of `like`."""
        together = full_product(kernel, grads)
        # The kernel falls with the distance: its gradient points back.
        total = tf.reduce_sum(kernel, axis=-1, keepdims=True)
        away = values * total - full_product(kernel, values)
        mixed = together - push[:, tf.newaxis, tf.newaxis] * away
        mixed = tf.transpose(mixed / self.particles, [1, 0, 2])
        return tf.reshape(mixed, tf.shape(like))

    def _apart(self, x: tf.Tensor) -> tf.Tensor:
        """Returns rows as `[tasks, particles, size]`."""
        tasks = tf.shape(x)[0] // self.particles
        size = math.prod(x.shape[1:])
        x = tf.reshape(x, [self.particles, tasks, size])
        return tf.transpose(x, [1, 0, 2])

    def _bandwidths(self, distances: tf.Tensor) -> tf.Tensor:
        """Returns the bandwidth of each task's kernel, `[tasks]`."""
        if self.bandwidth is not None:
            value = tf.constant(self.bandwidth, distances.dtype)
            return tf.fill([tf.shape(distances)[0]], value)
        pairs = tf.reshape(distances, [-1, self.particles**2])
        # Each particle is at no distance from itself, which says nothing.
        others = tf.sort(tf.stop_gradient(pairs), axis=-1)[:, self.particles :]
        count = self.particles * (self.particles - 1)
        middle = (others[:, (count - 1) // 2] + others[:, count // 2]) / 2
        # Particles in one place stay there, whatever the bandwidth.
        middle = tf.where(middle > 0, middle, tf.ones_like(middle))
        return middle / math.log(self.particles)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "rule": keras.saving.serialize_keras_object(self.rule),
            "particles": self.particles,
            "temperature": self.temperature,
            "bandwidth": self.bandwidth,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a rule from `get_config`'s dict."""
        rule = keras.saving.deserialize_keras_object(config["rule"])
        return cls(**{**config, "rule": rule})


def _squared_distances(x: tf.Tensor) -> tf.Tensor:
    """Returns those between particles, `[tasks, particles, particles]`.

    Args:
        x: `[tasks, particles, size]`.
    """
    # The usual product of all pairs would lose small distances.
    gaps = x[:, :, tf.newaxis] - x[:, tf.newaxis]
    return tf.reduce_sum(tf.square(gaps), axis=-1)
