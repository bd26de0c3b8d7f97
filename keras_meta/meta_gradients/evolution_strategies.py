"""Antithetic evolution strategies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_meta.meta_gradients.evolution import Evolution
from keras_meta.meta_gradients.evolution import WindowNoise


@keras.saving.register_keras_serializable("keras_meta")
@dataclasses.dataclass(frozen=True)
class EvolutionStrategies(Evolution):
    """Compares outer losses at perturbed meta-parameters.

    With noise `e` of variance 1 it estimates the gradient of the smoothed
    outer loss, `E[L(theta + sigma e)]`, by the mean over tasks and pairs of

        (L(theta + sigma e) - L(theta - sigma e)) / (2 sigma) * e

    where `L` is the loss of one task. Each pair of each task has noise of its
    own. Regularizers of weights are differentiated exactly.

    Nothing is differentiated, so the outer loss may be anything, such as an
    accuracy, and chaotic inner loops are smoothed instead of exploding.

    All pairs run side by side, as `2 * particles * tasks` tasks with
    meta-parameters of their own. Memory does not grow with the number of
    inner steps, time does as that of the inner loop. The variance grows with
    the number of meta-parameters, so for a network's weights the exact
    gradient is better wherever there is one: use `Unrolled`, or `Implicit`
    for long inner loops. A larger `sigma` has less variance and smooths more.

    On windows of a run (`length`), each window is perturbed anew and its
    differences are credited to its own noise alone. The influence of a window
    on later ones is lost, which is the bias of truncated backpropagation.
    Both particles of a pair go on from their own states. `PersistentES` and
    `NoiseReuseES` have no such bias.

    The base class `Evolution` says more about each argument.

    Args:
        particles: Pairs of perturbed meta-parameters for each task.
        sigma: Standard deviation of the perturbations.
        length: Steps of a window, or `None` for whole inner loops.
        seed: Seed of the perturbations, which differ from step to step.
        draws: `"normal"` or `"rademacher"`.

    Example:
    >>> import keras
    >>> import keras_meta
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> learner = keras_meta.MAML(
    ...     model,
    ...     0.1,
    ...     meta_gradient=keras_meta.EvolutionStrategies(4, sigma=0.1),
    ... )
    >>> learner.compile("adam", "mse")

    References:
        - [Salimans et al., 2017](https://arxiv.org/abs/1703.03864),
          section 2.
        - [Metz et al., 2019](https://arxiv.org/abs/1810.10180), section 3,
          for learned optimizers.
    """

    def first_memory(self, noise: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        """Remembers nothing; see `Evolution.first_memory`."""
        return []

    def window_noise(
        self, memory: Sequence[tf.Tensor], noise: Sequence[tf.Tensor]
    ) -> WindowNoise:
        """Credits a window's own noise; see `Evolution.window_noise`."""
        return WindowNoise(noise, noise, memory)
