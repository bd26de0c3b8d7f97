"""Reptile."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.checks import check_at_least
from keras_meta.inner.batch import Batch
from keras_meta.inner.few_shot import FewShotProblem
from keras_meta.learners.learner import Learner
from keras_meta.learners.meta_training import StepResult
from keras_meta.learners.tasks.episode import Episode
from keras_meta.learners.tasks.support_orders import SupportOrders
from keras_meta.meta_gradients.displacement import Displacement
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.update_rules.adam import Adam
from keras_meta.update_rules.update_rule import UpdateRule


@keras.saving.register_keras_serializable("keras_meta")
class Reptile(Learner):
    """Moves the initialization toward each task's adapted weights.

    The outer optimizer receives `weights - mean over tasks of adapted
    weights` as its gradient; with `keras.optimizers.SGD(e)` the
    initialization moves by the fraction `e` of the way. Query sets and
    regularizers change only the logged loss and metrics, not the move. The
    update rule's state starts anew with every task.

    Args:
        model: See `Learner`.
        update_rule: See `Learner`; by default Adam with rate 0.001 and
            without first moment, as published. Its rates cannot be learned.
        steps: See `Learner`.
        batch_size: How many support examples of each task a step sees; all
            by default. In training, each pass over the support set draws them
            without replacement. In evaluation, all passes have one order,
            which depends on nothing but `seed` and the number of examples: a
            support set may be sorted by class, and a step must not see one
            class alone.
        seed: Seed of the draws.
        **kwargs: `evaluation_steps`, `adapt`, `inner_loss`, `proximal`,
            `batch_statistics`, `name`; see `Learner`.

    Example:
    ```python
    learner = keras_meta.Reptile(
        model, steps=5, evaluation_steps=50, batch_size=10
    )
    learner.compile(
        keras.optimizers.SGD(
            keras.optimizers.schedules.PolynomialDecay(1.0, 100_000, 0.0)
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    ```

    References:
        - [Nichol et al., 2018](https://arxiv.org/abs/1803.02999),
          algorithm 2 and appendix A.
    """

    def __init__(
        self,
        model: keras.Model,
        update_rule: UpdateRule | float | None = None,
        steps: int = 5,
        *,
        batch_size: int | None = None,
        seed: int = 0,
        **kwargs: Any,
    ):
        if update_rule is None:
            update_rule = Adam(0.001, beta_1=0.0)
        if batch_size is not None:
            check_at_least(1, batch_size=batch_size)
            batch_size = int(batch_size)
        super().__init__(
            model, update_rule, steps, meta_gradient="displacement", **kwargs
        )
        self.batch_size = batch_size
        self._orders = SupportOrders(self, seed)

    @property
    def seed(self) -> int:
        """Seed of the draws."""
        return self._orders.seed

    def check_meta_gradient(self, value: MetaGradient) -> None:
        """Refuses other meta-gradients; see `Learner`."""
        super().check_meta_gradient(value)
        if not isinstance(value, Displacement):
            raise ValueError(
                "Reptile's meta-gradient is a displacement. Received: "
                f"meta_gradient={value}. Use keras_meta.MAML for others."
            )

    def _prepare(self, x: dict[str, Any]) -> dict[str, Any]:
        """Repeats the support sets, shuffled, as often as the steps need."""
        if self.batch_size is None:
            return x
        episode = Episode.from_inputs(x)
        examples = task_axis.size(episode.support_y, 1)
        passes = -(-self.steps * self.batch_size // examples)
        order = self._orders.draw(episode, passes)
        return episode.with_support_at(order).as_inputs()

    def _problem(self, training: bool) -> FewShotProblem:
        """Returns what the inner loop optimizes."""
        problem = super()._problem(training)
        if training:
            return problem
        return dataclasses.replace(
            problem, support_of_step=self._support_of_evaluation_step
        )

    def _apply(
        self, x: dict[str, Any], y: Any, sample_weight: Any, result: StepResult
    ) -> dict[str, Any]:
        drawn = [*result.changes, self._orders.change()]
        result = result._replace(changes=drawn)
        with warnings.catch_warnings():
            # Weights that do not adapt have no gradients on purpose.
            warnings.filterwarnings("ignore", "Gradients do not exist")
            return super()._apply(x, y, sample_weight, result)

    def _support_of_step(
        self, data: dict[str, Any], step: int | tf.Tensor
    ) -> Batch:
        episode = Episode(**data)
        if self.batch_size is not None:
            examples = task_axis.size(episode.support_y, 1)
            places = _places(step, self.batch_size, examples)
            episode = _at(episode, places)
        return super()._support_of_step(episode.as_inputs(), step)

    def _support_of_evaluation_step(
        self, data: dict[str, Any], step: int | tf.Tensor
    ) -> Batch:
        """Returns what a step learns from that is not part of training."""
        episode = Episode(**data)
        if self.batch_size is not None:
            examples = task_axis.size(episode.support_y, 1)
            order = self._orders.of_evaluation(examples)
            places = _places(step, self.batch_size, examples)
            episode = _at(episode, tf.gather(order, places))
        return super()._support_of_step(episode.as_inputs(), step)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = super().get_config()
        del config["meta_gradient"]
        return {**config, "batch_size": self.batch_size, "seed": self.seed}


def _places(
    step: int | tf.Tensor, size: int, examples: int | tf.Tensor
) -> tf.Tensor:
    """Returns the places that a step takes in an order, `[size]`."""
    return (step * size + tf.range(size)) % examples


def _at(episode: Episode, places: tf.Tensor) -> Episode:
    """Returns tasks with the support examples at these places."""
    shape = [episode.tasks, tf.size(places)]
    return episode.with_support_at(tf.broadcast_to(places, shape))
