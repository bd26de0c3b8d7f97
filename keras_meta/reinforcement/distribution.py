"""The interface of distributions of actions."""

from __future__ import annotations

import abc
import dataclasses

import tensorflow as tf

from keras_meta.reinforcement.settings import Settings


@dataclasses.dataclass(frozen=True)
class Distribution(Settings, abc.ABC):
    """How the outputs of a policy say which actions are likely."""

    @abc.abstractmethod
    def sample(self, outputs: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Draws actions.

        Args:
            outputs: The policy's outputs, `[..., outputs]`.
            seed: Seed of the draw, `[2]`.
        """

    @abc.abstractmethod
    def log_prob(self, outputs: tf.Tensor, actions: tf.Tensor) -> tf.Tensor:
        """Returns logarithms of probabilities, or densities, `[...]`.

        Args:
            outputs: The policy's outputs, `[..., outputs]`.
            actions: The actions that were taken.
        """

    @abc.abstractmethod
    def mode(self, outputs: tf.Tensor) -> tf.Tensor:
        """Returns the likeliest actions.

        Args:
            outputs: The policy's outputs, `[..., outputs]`.
        """
