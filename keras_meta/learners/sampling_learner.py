"""The base of learners that adapt several samples of weights to a task."""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import describe
from keras_meta.inner.few_shot import DRAWN_WEIGHTS
from keras_meta.inner.solver import Carry
from keras_meta.learners.adaptation.cloning import clone_model
from keras_meta.learners.learner import Learner
from keras_meta.learners.samples import samples
from keras_meta.learners.samples.samples_model import SamplesModel
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.update_rules.update_rule import UpdateRule


class SamplingLearner(Learner):
    """Base class of learners that adapt several samples of weights to a task.

    They predict with each sample: predictions are `[tasks, q, samples, ...]`.
    Where a support set says little, the samples disagree.

    A loss sees every sample as a query of its own, so it is the mean over
    samples. Metrics see what the samples predict together, `[n, ...]`: their
    mean, or where the compiled loss takes logits, the logits of their mean
    probability. `keras_meta.PredictiveNLL` and `keras_meta.Coverage` see
    every sample.

    `adapt` returns a plain Keras model with the output `[n, samples, ...]`.
    `adaptation_curve` is not available; pass `steps` to `evaluate_tasks`.

    A subclass implements `samples_in` and `starts`.

    Args:
        model: See `Learner`. It has one output.
        update_rule: See `Learner`.
        steps: See `Learner`.
        **kwargs: `evaluation_steps`, `adapt`, `inner_loss`,
            `meta_gradient`, `batch_statistics`, `name`; see `Learner`.
            `meta_gradient` is `"unrolled"` or `"first_order"`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        model: keras.Model,
        update_rule: UpdateRule | float = 0.01,
        steps: int = 1,
        **kwargs: Any,
    ):
        for name in ("start", "proximal"):
            if name in kwargs:
                raise ValueError(
                    f"{type(self).__name__} decides itself where inner loops "
                    f"begin. Received: {name}={describe(kwargs[name])}. Leave "
                    f"out `{name}`."
                )
        super().__init__(model, update_rule, steps, **kwargs)

    # What subclasses implement.

    def samples_in(self, training: bool) -> int:
        """Returns how many samples of weights each task has.

        Args:
            training: Whether this is a meta-training step.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `samples_in`."
        )

    def starts(self, data: dict[str, Any], training: bool) -> list[tf.Tensor]:
        """Returns where inner loops begin.

        Args:
            data: A batch of tasks, valid inputs of `call`.
            training: Whether this is a meta-training step.

        Returns:
            A tensor `[samples * tasks, *shape]` for each adapted variable,
            ordered as `[samples, tasks]`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `starts`."
        )

    # What losses and metrics see.

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor | None:
        """Returns the mean over samples of the loss; see `Learner`."""
        repeat = functools.partial(
            tf.repeat, repeats=self.samples_in(training), axis=1
        )
        if sample_weight is not None:
            sample_weight = repeat(sample_weight)
        return super().compute_loss(
            x, repeat(y), samples.as_queries(y_pred), sample_weight, training
        )

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Updates metrics with what samples predict together."""
        return super().compute_metrics(
            x, y, self.combined(y_pred), sample_weight
        )

    def each_sample(self, y_pred: tf.Tensor) -> list[tf.Tensor]:
        """Returns the predictions of each sample, `[tasks, q, ...]` each."""
        return samples.apart(y_pred)

    def combined(self, y_pred: tf.Tensor) -> tf.Tensor:
        """Returns what samples predict together, `[tasks, q, ...]`."""
        return samples.mixture(y_pred, self.loss)

    # What `Learner` is made of.

    def check_meta_gradient(self, value: MetaGradient) -> None:
        """Refuses one that is not the derivative of the call."""
        if not value.differentiates_calls or value.logs:
            raise ValueError(
                f"{type(self).__name__} goes back through its inner loops. "
                f"Received: meta_gradient={value}. Use keras_meta.Unrolled() "
                "or keras_meta.FirstOrder()."
            )
        super().check_meta_gradient(value)

    def trajectory(
        self, inputs: dict[str, Any], steps: int | None = None
    ) -> Any:
        """Is not available for samples; see the class."""
        raise ValueError(
            f"{type(self).__name__} predicts with the samples after the last "
            "step alone. Pass `steps` to keras_meta.evaluate_tasks, once for "
            "each number of steps."
        )

    def _apart(self, data: dict[str, Any], training: bool) -> dict[str, Any]:
        return samples.repeat(data, self.samples_in(training))

    def _together(self, outputs: Any, training: bool) -> Any:
        return samples.behind_queries(outputs, self.samples_in(training))

    def _begin(self, data: dict[str, Any], training: bool) -> dict[str, Any]:
        starts = self.starts(data, training)
        return {**self._apart(data, training), DRAWN_WEIGHTS: starts}

    def _report_run(
        self, recorded: Any, end: Carry, steps: int, training: bool
    ) -> None:
        # A task has failed if one of its samples has.
        count = self.samples_in(training)
        params = [samples.sum_of_samples(p, count) for p in end.params]
        if recorded is not None:
            losses = samples.sum_of_samples(recorded[0], count, axis=1)
            recorded = (losses, *recorded[1:])
        super()._report_run(
            recorded, end._replace(params=params), steps, training
        )

    def _plain_model(self, inputs: dict[str, Any], end: Carry) -> keras.Model:
        problem = self._problem(training=False)
        x = self._apart(inputs, training=False)["support_x"]
        values = [
            problem.one_task(x, end.params, end.state, task)
            for task in range(self.samples_in(training=False))
        ]
        return SamplesModel([clone_model(self.model, v) for v in values])
