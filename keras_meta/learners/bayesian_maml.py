"""Bayesian model-agnostic meta-learning."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_at_least
from keras_meta.checks import check_number_at_least
from keras_meta.execution import replicas
from keras_meta.inner.inner_loop import InnerLoop
from keras_meta.learners.arguments import as_update_rule
from keras_meta.learners.maml_ensemble import MAMLEnsemble
from keras_meta.learners.tasks.episode import Episode
from keras_meta.meta_gradients.objective import Adaptation
from keras_meta.update_rules.stein_gradient import SteinGradient
from keras_meta.update_rules.update_rule import UpdateRule


@keras.saving.register_keras_serializable("keras_meta")
class BayesianMAML(MAMLEnsemble):
    """Learns particles from which few steps reach a task's posterior.

    Several initializations adapt together by Stein variational gradient
    descent: `keras_meta.SteinGradient` pulls them downhill and pushes them
    apart. With one particle the inner loop is MAML's.

    Training pulls the particles after the inner loop, the followers, toward
    where `leader_steps` more steps on support and query set together would
    take them, the leaders (the chaser loss):

        sum over particles of |follower - leader|^2

    as the mean over tasks. Leaders count as constants. So the loss of
    queries is not minimized itself, which would make the particles of a
    task alike. Logs show the chaser loss as `loss` in training; the compiled
    loss, a likelihood, is what `evaluate` measures.

    Args:
        model: See `Learner`.
        update_rule: How particles take a step along their directions; see
            `Learner`.
        steps: See `Learner`.
        particles: Number of particles.
        leader_steps: Steps that leaders take further, at least 1.
        temperature: See `keras_meta.SteinGradient`. With a mean over
            examples as the loss, about 1 over their number.
        bandwidth: See `keras_meta.SteinGradient`.
        seed: Seed of the initial particles.
        **kwargs: See `SamplingLearner`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
    >>> import keras_meta
    >>> learner = keras_meta.BayesianMAML(
    ...     keras_meta.models.sinusoid_mlp(), 0.01, particles=4, temperature=0.1
    ... )
    >>> learner.compile("adam", keras_meta.GaussianNLL(0.3))
    >>> tasks = keras_meta.episodes.sinusoids(shots=5, queries=10, tasks=4)
    >>> x, y = next(iter(tasks))
    >>> learner(x).shape
    TensorShape([4, 10, 4, 1])

    References:
        - [Kim et al., 2018](https://arxiv.org/abs/1806.03836), algorithm 3.
    """

    def __init__(
        self,
        model: keras.Model,
        update_rule: UpdateRule | float = 0.01,
        steps: int = 1,
        *,
        particles: int = 5,
        leader_steps: int = 1,
        temperature: float = 0.1,
        bandwidth: float | None = None,
        seed: int = 0,
        **kwargs: Any,
    ):
        check_at_least(1, particles=particles, leader_steps=leader_steps)
        check_number_at_least(0, temperature=temperature)
        rule = SteinGradient(
            as_update_rule(update_rule),
            particles,
            temperature=temperature,
            bandwidth=bandwidth,
        )
        super().__init__(
            model, rule, steps, particles=particles, seed=seed, **kwargs
        )
        self.leader_steps = int(leader_steps)
        self.temperature = float(temperature)
        self.bandwidth = bandwidth

    def outer_loss(
        self,
        x: dict[str, Any],
        y: Any,
        sample_weight: Any = None,
        adaptation: Adaptation | None = None,
    ) -> tuple[tf.Tensor, Any]:
        """Returns the chaser loss, and predictions of the followers."""
        if adaptation is None:
            self._clear_losses()
            adaptation = self._adapt(x, training=True, steps=self.steps)
        leaders = self._leaders(x, y, sample_weight, adaptation)
        gaps = [
            tf.reduce_sum(tf.square(f - tf.stop_gradient(leader)))
            for f, leader in zip(adaptation.end.params, leaders, strict=True)
        ]
        y_pred = self.predict_tasks(adaptation, x, training=True)
        episode = Episode.from_inputs(x, self.model)
        chase = tf.add_n(gaps) / tf.cast(episode.tasks, gaps[0].dtype)
        return replicas.share(tf.add_n([chase, *self.losses])), y_pred

    def _leaders(
        self,
        x: dict[str, Any],
        y: Any,
        sample_weight: Any,
        adaptation: Adaptation,
    ) -> list[tf.Tensor]:
        """Returns particles that have seen the queries too."""
        episode = Episode.from_inputs(x, self.model)
        data = self._with_valid_support(episode)
        both = self._apart(_with_queries(data, y, sample_weight), True)
        loop = InnerLoop(
            self._solver,
            self._problem(training=True),
            self._theta(),
            both,
            adaptation.end,
            self.leader_steps,
            first=self.steps,
        )
        end, _ = loop.as_constant().run()
        return list(end.params)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "update_rule": keras.saving.serialize_keras_object(
                self.update_rule.rule
            ),
            "leader_steps": self.leader_steps,
            "temperature": self.temperature,
            "bandwidth": self.bandwidth,
        }


def _with_queries(
    data: dict[str, Any], y: Any, sample_weight: Any
) -> dict[str, Any]:
    """Returns tasks whose support sets hold the queries too.

    Args:
        data: The tasks, valid inputs of `call`.
        y: Labels of the query sets, `[tasks, q, ...]`.
        sample_weight: Weights of the queries, `[tasks, q]`, or `None`.
    """
    labels = tf.cast(y, data["support_y"].dtype)
    both = {
        **data,
        "support_x": keras.tree.map_structure(
            _side_by_side, data["support_x"], data["query_x"]
        ),
        "support_y": _side_by_side(data["support_y"], labels),
    }
    weights = data.get("support_sample_weight"), sample_weight
    if any(weight is not None for weight in weights):
        both["support_sample_weight"] = _side_by_side(
            _or_ones(weights[0], data["support_y"]), _or_ones(weights[1], y)
        )
    return both


def _side_by_side(support: tf.Tensor, query: tf.Tensor) -> tf.Tensor:
    return tf.concat([support, query], axis=1)


def _or_ones(weight: tf.Tensor | None, labels: tf.Tensor) -> tf.Tensor:
    if weight is None:
        return tf.ones(tf.shape(labels)[:2], keras.config.floatx())
    return tf.cast(weight, keras.config.floatx())
