"""Evolution strategies whose noise serves for a whole run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_meta.meta_gradients.evolution import Evolution
from keras_meta.meta_gradients.evolution import WindowNoise


@keras.saving.register_keras_serializable("keras_meta")
@dataclasses.dataclass(frozen=True)
class NoiseReuseES(Evolution):
    """Evolution strategies on windows, with one noise for each run.

    A pair keeps the noise `e` that it drew when its run began. Window `w`
    contributes

        (L[w](theta + sigma e) - L[w](theta - sigma e)) / (2 sigma) * e

    The mean over tasks and pairs estimates the gradient of the smoothed loss
    of the window, through all windows before it.

    Memory does not grow with the length of a run; a window costs `2 *
    particles` times the time of its steps for each task. The variance does
    not grow with the number of windows, as that of `PersistentES` does.
    Directions change only where a run begins anew, so runs of several tasks
    should begin at different times. Do not choose it for endless runs, which
    would see one direction alone: these need `PersistentES`. Few-shot
    learners take inner loops whole, and there both are the same as
    `EvolutionStrategies`.

    The base class `Evolution` says more about each argument.

    Args:
        particles: Pairs of perturbed meta-parameters for each task.
        sigma: Standard deviation of the perturbations.
        length: Steps of a window, or `None` for whole inner loops.
        seed: Seed of the perturbations, which differ from run to run.
        draws: `"normal"` or `"rademacher"`.

    Example:
    >>> import keras_meta
    >>> meta_gradient = keras_meta.NoiseReuseES(16, sigma=0.1, length=20)

    References:
        - [Li et al., 2023](https://arxiv.org/abs/2304.12180), section 3.
    """

    def first_memory(self, noise: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        """Remembers the noise; see `Evolution.first_memory`."""
        return noise

    def window_noise(
        self, memory: Sequence[tf.Tensor], noise: Sequence[tf.Tensor]
    ) -> WindowNoise:
        """Uses the run's noise throughout; see `Evolution.window_noise`."""
        return WindowNoise(memory, memory, memory)
