"""Several initializations, meta-learned side by side."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.checks import check_at_least
from keras_meta.checks import check_int64
from keras_meta.learners.samples.particles import Particles
from keras_meta.learners.sampling_learner import SamplingLearner
from keras_meta.update_rules.update_rule import UpdateRule


@keras.saving.register_keras_serializable("keras_meta")
class MAMLEnsemble(SamplingLearner):
    """MAML from several initializations, whose predictions count equally.

    The members see the same tasks and share nothing else but learned rates
    and weights that do not adapt. So with fixed rates and all weights
    adapted, each learns what `MAML` would from its initial weights. Their
    disagreement says where a support set leaves the answer open. It takes
    as much time and memory as `particles` learners.

    The first member begins at the weights of the model; the initializers of
    its layers draw the others. The model's own adapted weights are not
    learned.

    Args:
        model: See `Learner`.
        update_rule: See `Learner`.
        steps: See `Learner`.
        particles: Number of initializations.
        seed: Seed of their initial weights.
        **kwargs: See `SamplingLearner`.

    Raises:
        ValueError: If an argument is out of range, or a weight that adapts
            has no initializer.

    Example:
    >>> import keras_meta
    >>> learner = keras_meta.MAMLEnsemble(
    ...     keras_meta.models.sinusoid_mlp(), 0.01, particles=3
    ... )
    >>> learner.compile("adam", "mse")
    >>> tasks = keras_meta.episodes.sinusoids(shots=5, queries=10, tasks=4)
    >>> x, y = next(iter(tasks))
    >>> learner(x).shape
    TensorShape([4, 10, 3, 1])

    References:
        - [Lakshminarayanan et al., 2017](https://arxiv.org/abs/1612.01474),
          for ensembles.
    """

    def __init__(
        self,
        model: keras.Model,
        update_rule: UpdateRule | float = 0.01,
        steps: int = 1,
        *,
        particles: int = 5,
        seed: int = 0,
        **kwargs: Any,
    ):
        check_at_least(1, particles=particles)
        check_int64(seed=seed)
        super().__init__(model, update_rule, steps, **kwargs)
        self.particles = int(particles)
        self.seed = int(seed)
        self._members = Particles.make(
            model,
            self._task_batched.adapted,
            self.particles,
            self.seed,
            self.add_weight,
        )
        self._start = self._members

    def samples_in(self, training: bool) -> int:
        """Returns the number of initializations."""
        return self.particles

    def starts(self, data: dict[str, Any], training: bool) -> list[tf.Tensor]:
        """Returns all initializations for each task."""
        return self._members.of_tasks(task_axis.size(data["support_y"], 0))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = super().get_config()
        for name in ("start", "proximal"):
            del config[name]
        return {**config, "particles": self.particles, "seed": self.seed}
