"""Reptile."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.checks import check_at_least
from keras_meta.checks import check_bool
from keras_meta.checks import check_whole
from keras_meta.execution import replicas
from keras_meta.execution.undoing import Change
from keras_meta.inner.inner_loop import Support
from keras_meta.learners.episode import Episode
from keras_meta.learners.learner import Learner
from keras_meta.learners.meta_training import MetaGradient
from keras_meta.update_rules.adam import Adam
from keras_meta.update_rules.update_rule import UpdateRule


@keras.saving.register_keras_serializable("keras_meta")
class Reptile(Learner):
    """Moves the initialization toward each task's adapted weights.

    The outer optimizer receives `weights - mean over tasks of adapted
    weights` as its gradient; with `keras.optimizers.SGD(e)` the
    initialization moves by the fraction `e` of the way. Query sets serve for
    the logged loss and metrics alone, and so do regularizers: they do not
    change the move. The update rule's state starts anew with every task.

    Args:
        model: See `Learner`.
        update_rule: See `Learner`; Adam without first moment and rate 0.001
            by default, as published. Its rates cannot be learned.
        steps: See `Learner`.
        batch_size: How many support examples of each task a step sees; all
            by default. In training they are drawn without replacement from
            pass to pass, in evaluation they come in order.
        seed: Seed of the draws.
        **kwargs: `evaluation_steps`, `adapt`, `inner_loss`,
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
        first_order = kwargs.pop("first_order", True)
        check_bool(first_order=first_order)
        if not first_order:
            raise ValueError(
                "Reptile takes no second derivatives. Received: "
                "first_order=False; use keras_meta.MAML."
            )
        if batch_size is not None:
            check_at_least(1, batch_size=batch_size)
            batch_size = int(batch_size)
        check_whole(seed=seed)
        super().__init__(model, update_rule, steps, first_order=True, **kwargs)
        if self.update_rule.trainable_variables:
            raise ValueError(
                "Reptile cannot learn rates: its update is no derivative. "
                "Pass an update rule with learn=None, or use "
                "keras_meta.MAML or keras_meta.MetaSGD."
            )
        self.batch_size = batch_size
        self.seed = int(seed)
        # A weight, so that a loaded learner continues its draws. TensorFlow
        # keeps int32 variables off a GPU, where XLA would not reach them.
        self._draws = self.add_weight(
            name="draws",
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
        )

    def _prepare(self, x: dict[str, Any]) -> dict[str, Any]:
        """Repeats the support sets, shuffled, as often as the steps need."""
        if self.batch_size is None:
            return x
        episode = Episode.from_inputs(x)
        examples = task_axis.size(episode.support_y, 1)
        passes = -(-self.steps * self.batch_size // examples)
        # Each replica draws for all tasks and takes its own, so that tasks
        # see what they would see on one device.
        first, tasks = replicas.place_in_batch(episode.tasks)
        numbers = tf.random.stateless_uniform(
            [tasks, passes, examples], self._seed_of_draw()
        )
        order = tf.argsort(numbers[first : first + episode.tasks])
        order = tf.reshape(order, [episode.tasks, -1])
        return _take(episode, order).as_inputs()

    def _seed_of_draw(self) -> list[tf.Tensor]:
        draws = tf.convert_to_tensor(self._draws)
        return [tf.cast(self.seed, draws.dtype), draws + 1]

    def _meta_gradient(self, x, y, sample_weight) -> MetaGradient:
        episode = Episode.from_inputs(x)
        start = self._inner_loop.start(episode.tasks)
        carry, _ = self._unroll(episode, start, self.steps, training=True)
        y_pred, carry = self._predict_query(episode, carry, training=True)
        self._keep_state(start, carry)
        self._clear_losses()
        loss = self._compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight
        )
        number = tf.distribute.get_strategy().num_replicas_in_sync
        adapted = self._inner_loop.task_batched.adapted
        moves = {}
        for v, w in zip(adapted, carry.weights, strict=True):
            move = tf.convert_to_tensor(v.value) - tf.reduce_mean(w, axis=0)
            # As the optimizer divides by its loss scale.
            moves[id(v)] = self.optimizer.scale_loss(move / number)
        gradients = [moves.get(id(v)) for v in self.trainable_variables]
        return MetaGradient(gradients, loss, y_pred, [])

    def _apply(self, x, y, sample_weight, result: MetaGradient):
        draws = tf.convert_to_tensor(self._draws)
        drawn = Change(self._draws, draws, draws + 1)
        result = result._replace(changes=[*result.changes, drawn])
        with warnings.catch_warnings():
            # Weights that do not adapt have none on purpose.
            warnings.filterwarnings("ignore", "Gradients do not exist")
            return super()._apply(x, y, sample_weight, result)

    def _support_of_step(self, episode: Episode, i) -> Support:
        if self.batch_size is None:
            return super()._support_of_step(episode, i)
        examples = task_axis.size(episode.support_y, 1)
        start = i * self.batch_size
        order = (start + tf.range(self.batch_size)) % examples
        order = tf.broadcast_to(order, [episode.tasks, self.batch_size])
        return super()._support_of_step(_take(episode, order), i)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = super().get_config()
        del config["first_order"]
        return {**config, "batch_size": self.batch_size, "seed": self.seed}


def _take(episode: Episode, order: tf.Tensor) -> Episode:
    """Returns the episode with support examples in the order `[tasks, n]`."""

    def take(x):
        return tf.gather(x, order, batch_dims=1)

    weight = episode.support_sample_weight
    return Episode(
        support_x=keras.tree.map_structure(take, episode.support_x),
        support_y=take(episode.support_y),
        query_x=episode.query_x,
        support_sample_weight=None if weight is None else take(weight),
    )
