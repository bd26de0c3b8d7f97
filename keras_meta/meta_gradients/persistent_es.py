"""Persistent evolution strategies."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_meta.meta_gradients.evolution import Evolution
from keras_meta.meta_gradients.evolution import WindowNoise


@keras.saving.register_keras_serializable("keras_meta")
@dataclasses.dataclass(frozen=True)
class PersistentES(Evolution):
    """Evolution strategies on windows, without the bias of truncation.

    Window `w` of a run is perturbed by noise `e[w]` of its own. Its loss
    `L[w]` depends on the noise of earlier windows too, so the difference of
    losses is credited to the sum of a pair's noise since its run began:

        (L[w](+) - L[w](-)) / (2 sigma) * (e[0] + ... + e[w])

    The mean over tasks and pairs estimates the gradient of the smoothed loss
    of the window, through all windows before it.

    Memory does not grow with the length of a run; a window costs `2 *
    particles` times the time of its steps for each task. The variance grows
    with the number of windows since a run began. Choose `NoiseReuseES` for
    less variance where losses are smooth, and `EvolutionStrategies` where
    runs are short enough to take them whole. Few-shot learners take inner
    loops whole, and there all three are the same.

    The base class `Evolution` says more about each argument.

    Args:
        particles: Pairs of perturbed meta-parameters for each task.
        sigma: Standard deviation of the perturbations.
        length: Steps of a window, or `None` for whole inner loops.
        seed: Seed of the perturbations, which differ from window to window.
        draws: `"normal"` or `"rademacher"`.

    Example:
    >>> import keras_meta
    >>> meta_gradient = keras_meta.PersistentES(16, sigma=0.1, length=20)

    References:
        - [Vicol et al., 2021](https://arxiv.org/abs/2112.13835), section 4.
    """

    def first_memory(self, noise: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        """Remembers a sum of nothing; see `Evolution.first_memory`."""
        return list(map(tf.zeros_like, noise))

    def window_noise(
        self, memory: Sequence[tf.Tensor], noise: Sequence[tf.Tensor]
    ) -> WindowNoise:
        """Credits the sum of the noise; see `Evolution.window_noise`."""
        total = [a + b for a, b in zip(memory, noise, strict=True)]
        return WindowNoise(noise, total, total)
