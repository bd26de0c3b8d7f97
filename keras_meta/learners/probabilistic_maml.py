"""Probabilistic model-agnostic meta-learning."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any
from typing import Self

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.checks import check_at_least
from keras_meta.checks import check_int64
from keras_meta.checks import check_number_at_least
from keras_meta.checks import check_positive_number
from keras_meta.execution import replicas
from keras_meta.inner.batch import Batch
from keras_meta.inner.few_shot import DRAWN_WEIGHTS
from keras_meta.inner.few_shot import whole_support
from keras_meta.inner.inner_loop import InnerLoop
from keras_meta.inner.solver import Solver
from keras_meta.learners.arguments import as_update_rule
from keras_meta.learners.samples import samples
from keras_meta.learners.samples.gaussians import Gaussian
from keras_meta.learners.samples.sampled_start import SampledStart
from keras_meta.learners.sampling_learner import SamplingLearner
from keras_meta.learners.tasks.episode import Episode
from keras_meta.meta_gradients.objective import Adaptation
from keras_meta.update_rules.gradient_descent import GradientDescent
from keras_meta.update_rules.update_rule import UpdateRule

_QUERY_Y = "query_y"
_QUERY_WEIGHT = "query_sample_weight"


@keras.saving.register_keras_serializable("keras_meta")
class ProbabilisticMAML(SamplingLearner):
    """Learns a distribution of initial weights (PLATIPUS).

    MAML has one initialization, so it answers an ambiguous support set with
    one guess. Here initial weights `w` are Gaussian with learned means `m`,
    which are the model's weights, and learned standard deviations `s`. Each
    sample of them adapts by the inner loop, as in MAML.

    The prior of a task is conditioned on its support set by one step of
    `prior_rule` on the means. In training, `w` is sampled from an approximate
    posterior, which one step of `posterior_rule` on the query set makes of
    the means, with standard deviations `t` of its own:

        prior      p(w | support) = N(m - prior_rule(support loss), s^2)
        posterior  q(w | query)   = N(m - posterior_rule(query loss), t^2)

    Training minimizes, as the mean over tasks,

        E_q[query loss of adapted w] + kl_weight / queries * KL(q || p)

    With the mean over queries of a negative log-likelihood as the loss, and
    `kl_weight=1`, this times the number of queries bounds their negative log
    evidence. So compile a likelihood: a cross-entropy, or for regression
    `keras_meta.GaussianNLL`. With a mean squared error the two terms have
    no common unit. Everything, rates included, is learned.

    Outside of training, a task's samples come from its prior. All tasks get
    the same noise, which belongs to the learner's weights, so that
    predictions neither differ between calls nor depend on other tasks.
    `redraw(seed)` draws it anew.

    Starting from a model that MAML trained shortens training. Use `MAML`
    where tasks are not ambiguous: it is cheaper, and its one prediction is
    then as good.

    Args:
        model: See `Learner`. Its weights are the means.
        update_rule: See `Learner`.
        steps: See `Learner`.
        samples: Samples of each task outside of training.
        training_samples: Samples of each task in training.
        scale: Initial standard deviation of all weights, positive.
        kl_weight: Weight of the divergence, at least 0. Below 1, samples
            spread less in tests than the data would justify.
        prior_rule: An update rule for the one step to the prior's means. By
            default, gradient descent whose rate is learned for each layer,
            from that of `update_rule`, if it is gradient descent, or from
            0.01.
        posterior_rule: The same for the posterior's means.
        seed: Seed of all noise.
        **kwargs: See `SamplingLearner`.

    Raises:
        ValueError: If an argument is out of range.

    Example:
    >>> import keras
    >>> import keras_meta
    >>> learner = keras_meta.ProbabilisticMAML(
    ...     keras_meta.models.sinusoid_mlp(), 0.01, steps=1, samples=10
    ... )
    >>> learner.compile(
    ...     "adam",
    ...     keras_meta.GaussianNLL(0.3),
    ...     metrics=[keras_meta.Coverage(0.3)],
    ... )
    >>> tasks = keras_meta.episodes.sinusoids(shots=5, queries=10, tasks=4)
    >>> x, y = next(iter(tasks))
    >>> learner(x).shape
    TensorShape([4, 10, 10, 1])

    References:
        - [Finn et al., 2018](https://arxiv.org/abs/1806.02817), algorithms 1
          and 2.
    """

    def __init__(
        self,
        model: keras.Model,
        update_rule: UpdateRule | float = 0.01,
        steps: int = 1,
        *,
        samples: int = 10,
        training_samples: int = 1,
        scale: float = 0.02,
        kl_weight: float = 1.0,
        prior_rule: UpdateRule | float | None = None,
        posterior_rule: UpdateRule | float | None = None,
        seed: int = 0,
        **kwargs: Any,
    ):
        check_at_least(1, samples=samples, training_samples=training_samples)
        check_positive_number(scale=scale)
        check_number_at_least(0, kl_weight=kl_weight)
        check_int64(seed=seed)
        super().__init__(model, update_rule, steps, **kwargs)
        self.samples = int(samples)
        self.training_samples = int(training_samples)
        self.scale = float(scale)
        self.kl_weight = float(kl_weight)
        self.seed = int(seed)
        self.prior_rule = self._one_step(prior_rule)
        self.posterior_rule = self._one_step(posterior_rule)
        adapted = self._task_batched.adapted
        self._sampled = SampledStart.make(
            adapted, self.samples, self.seed, self.add_weight
        )
        self._start = self._sampled
        self.prior_log_scales = self._add_log_scales("prior")
        self.posterior_log_scales = self._add_log_scales("posterior")

    def samples_in(self, training: bool) -> int:
        """Returns how many samples of weights each task has."""
        return self.training_samples if training else self.samples

    def starts(self, data: dict[str, Any], training: bool) -> list[tf.Tensor]:
        """Samples initial weights from the priors; see `SamplingLearner`."""
        return self.prior(data, training).sample(self._noise(data, training))

    def prior(self, data: dict[str, Any], training: bool = False) -> Gaussian:
        """Returns the distribution of initial weights given support sets.

        Args:
            data: A batch of tasks, valid inputs of `call`.
            training: Whether this is a meta-training step.
        """
        means = self._moved(data, self.prior_rule, whole_support, training)
        return Gaussian(means, _values(self.prior_log_scales))

    def posterior(self, data: dict[str, Any]) -> Gaussian:
        """Returns the distribution of initial weights given query sets.

        Args:
            data: A batch of tasks, with the labels of the query sets as
                `"query_y"` and weights, if any, as `"query_sample_weight"`.
        """
        means = self._moved(data, self.posterior_rule, _whole_query, True)
        return Gaussian(means, _values(self.posterior_log_scales))

    def outer_loss(
        self,
        x: dict[str, Any],
        y: Any,
        sample_weight: Any = None,
        adaptation: Adaptation | None = None,
    ) -> tuple[tf.Tensor, Any]:
        """Returns what the class says training minimizes; see `Learner`."""
        self._clear_losses()
        data = self._with_valid_support(Episode.from_inputs(x, self.model))
        noise = self._noise(data, training=True)
        return self.bound(data, y, sample_weight, noise)

    def bound(
        self, data: dict[str, Any], y: Any, sample_weight: Any, noise: Any
    ) -> tuple[tf.Tensor, Any]:
        """Returns what training minimizes, for given noise, and predictions.

        Args:
            data: A batch of tasks, valid inputs of `call`.
            y: Labels of the query sets, `[tasks, q, ...]`.
            sample_weight: Weights of the query examples, `[tasks, q]`, or
                `None`.
            noise: Standard normal numbers, `[samples, tasks, *shape]` for
                each adapted variable, with `training_samples` samples.
        """
        known = {**data, _QUERY_Y: y}
        if sample_weight is not None:
            known[_QUERY_WEIGHT] = sample_weight
        posterior = self.posterior(known)
        divergence = posterior.divergence(self.prior(data, training=True))
        begun = {
            **samples.repeat(data, self.training_samples),
            DRAWN_WEIGHTS: posterior.sample(noise),
        }
        adaptation = self._run(begun, training=True, steps=self.steps)
        y_pred = self.predict_tasks(adaptation, data, training=True)
        loss = self._compute_loss(
            x=data,
            y=y,
            y_pred=y_pred,
            sample_weight=sample_weight,
            training=True,
        )
        queries = tf.cast(task_axis.size(y, 1), divergence.dtype)
        penalty = self.kl_weight * tf.reduce_mean(divergence) / queries
        return loss + tf.cast(replicas.share(penalty), loss.dtype), y_pred

    def _noise(self, data: dict[str, Any], training: bool) -> list[tf.Tensor]:
        if not training:
            return self._sampled.of_tests()
        tasks = task_axis.size(data["support_y"], 0)
        return self._sampled.of_training(self.training_samples, tasks)

    def _moved(
        self,
        data: dict[str, Any],
        rule: UpdateRule,
        examples: Callable[[Any, Any], Batch],
        training: bool,
    ) -> list[tf.Tensor]:
        """Takes one step from the means, `[tasks, *shape]` each."""
        problem = dataclasses.replace(
            self._problem(training), support_of_step=examples
        )
        theta, solver = self._theta(), Solver(rule)
        start = solver.init(problem, theta, data)
        loop = InnerLoop(solver, problem, theta, data, start, steps=1)
        end, _ = self.meta_gradient.solve(loop) if training else loop.run()
        return solver.finish(problem, theta, end).params

    def _one_step(self, rule: UpdateRule | float | None) -> UpdateRule:
        """Returns the rule of a single step from the means."""
        if rule is None:
            rate = getattr(self.update_rule, "learning_rate", 0.01)
            rate = rate if isinstance(rate, float) else 0.01
            rule = GradientDescent(rate, learn="layer")
        rule = as_update_rule(rule)
        rule.ensure_attached(self._task_batched.adapted, 1)
        return rule

    def _add_log_scales(self, name: str) -> list[keras.Variable]:
        initializer = keras.initializers.Constant(math.log(self.scale))
        return [
            self.add_weight(
                name=f"{name}_log_scale_{v.name}",
                shape=v.shape,
                dtype=v.dtype,
                initializer=initializer,
            )
            for v in self._task_batched.adapted
        ]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = super().get_config()
        for name in ("start", "proximal"):
            del config[name]
        serialize = keras.saving.serialize_keras_object
        return {
            **config,
            "samples": self.samples,
            "training_samples": self.training_samples,
            "scale": self.scale,
            "kl_weight": self.kl_weight,
            "prior_rule": serialize(self.prior_rule),
            "posterior_rule": serialize(self.posterior_rule),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a learner from `get_config`'s dict."""
        config = dict(config)
        for name in ("prior_rule", "posterior_rule"):
            if isinstance(config.get(name), dict):
                config[name] = keras.saving.deserialize_keras_object(
                    config[name]
                )
        return super().from_config(config)


def _whole_query(data: dict[str, Any], step: int | tf.Tensor) -> Batch:
    """Returns the whole query set; see `whole_support`."""
    return Batch(data["query_x"], data[_QUERY_Y], data.get(_QUERY_WEIGHT))


def _values(variables: list[keras.Variable]) -> list[tf.Tensor]:
    return list(map(tf.convert_to_tensor, variables))
