"""Training a Keras model, as an inner loop does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_meta._keras import as_it_is
from keras_meta.batching.task_batched import TaskBatched
from keras_meta.batching.task_batched import TaskOutputs
from keras_meta.inner.batch import Batch
from keras_meta.inner.inner_loss import InnerLoss
from keras_meta.inner.penalties import penalties
from keras_meta.inner.problem import Derivatives
from keras_meta.inner.problem import InnerProblem


class Start(NamedTuple):
    """Where training begins.

    Attributes:
        params: Values of the weights, `[tasks, *shape]` each.
        state: Values of the model's other variables.
    """

    params: list[tf.Tensor]
    state: list[tf.Tensor]


class LearnedScope(keras.StatelessScope):
    """Gives learned variables their values, and refuses all others.

    The value of a trainable variable that is not learned would count as a
    constant without a word.

    Args:
        values: Pairs of a variable and its value.
        elsewhere: Ids of variables that the model alone may read, which has
            other values for them.
    """

    def __init__(
        self,
        values: Sequence[tuple[keras.Variable, tf.Tensor]],
        elsewhere: Collection[int],
    ):
        super().__init__(values)
        self._elsewhere = elsewhere

    def get_current_value(self, variable: keras.Variable) -> tf.Tensor | None:
        """Returns the value that a variable has in the scope."""
        value = super().get_current_value(variable)
        if value is not None or not variable.trainable:
            return value
        if id(variable) in self._elsewhere:
            message = (
                f"The inner loss reads the weight '{variable.path}' of the "
                "model directly, where it is not the value that training is "
                "at. Pass a regularizer to the layer instead."
            )
        else:
            message = (
                f"Training reads '{variable.path}', a trainable variable that "
                "is neither a weight of the model nor a hyperparameter that "
                "the learner knows. Pass it in `hyperparameters=`, or set "
                "`trainable=False` to leave it as it is."
            )
        raise as_it_is(ValueError(message))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingProblem(InnerProblem):
    """Training a model on batches; its data are a `Start`.

    A step descends the loss on a batch, the regularizers of the weights, and
    what layers add. All of it may read `variables`, which have the values
    `theta` then.

    Attributes:
        task_batched: The model. Its adapted variables are the parameters.
        inner_loss: The loss of a batch.
        batch_of_step: Maps the number of a step to its batch. It is called
            where `variables` have their values, so it may read them.
        statistics: What batch normalization predicts with: `"running"`,
            moving averages, or `"batch"`, what is predicted.
    """

    task_batched: TaskBatched
    inner_loss: InnerLoss
    batch_of_step: Callable[[int | tf.Tensor], Batch]
    statistics: str = "running"

    @property
    def layers(self) -> Sequence[keras.Layer]:
        """All layers of the model."""
        return self.task_batched.layers

    def scope(self, theta: Sequence[tf.Tensor]) -> keras.StatelessScope:
        """Gives `variables` their values; see `InnerProblem.scope`."""
        return LearnedScope(
            list(zip(self.variables, theta, strict=True)),
            {id(v) for v in self.task_batched.adapted},
        )

    def start(self, theta, data):
        """Begins where the data say; see `InnerProblem.start`."""
        return list(data.params), list(data.state)

    def loss(
        self,
        theta,
        data,
        params,
        state,
        step,
        derivatives=Derivatives.NONE,
    ):
        """Returns the losses of a batch; see `InnerProblem.loss`."""
        with self.scope(theta):
            batch = self.batch_of_step(step)
            result = self._call(
                batch.x,
                params,
                state,
                training=True,
                second_order=derivatives is Derivatives.SECOND,
            )
            losses = self.inner_loss(
                batch.y, result.outputs, batch.sample_weight
            )
            variables = self.task_batched.adapted
            losses += penalties(variables, params, losses.dtype)
            losses += self._added(result.losses, params, losses.dtype)
        return losses, result.state

    def predict(
        self,
        theta: Sequence[tf.Tensor],
        x: Any,
        params: Sequence[tf.Tensor],
        state: Sequence[tf.Tensor],
    ) -> Any:
        """Returns predictions as outside of training, `[tasks, n, ...]`.

        Args:
            theta: Values of the meta-parameters.
            x: Inputs, `[tasks, n, ...]` each.
            params: The trained weights.
            state: The state after training.
        """
        with self.scope(theta):
            return self._call(
                x,
                params,
                state,
                training=False,
                statistics=self.statistics,
            ).outputs

    def _call(
        self,
        x,
        params,
        state,
        *,
        training: bool,
        statistics: str = "running",
        second_order: bool = False,
    ) -> TaskOutputs:
        return self.task_batched(
            params,
            state,
            x,
            training=training,
            # In training, running ones are a batch's own, as in Keras.
            statistics=statistics,
            second_order=second_order,
            xla=self.xla,
        )

    def _added(self, losses, params, dtype: tf.DType) -> tf.Tensor:
        """Returns what layers added, a scalar."""
        tasks = params[0].shape[0]
        if losses and tasks != 1:
            raise NotImplementedError(
                "Losses that layers add during a call, by an activity "
                "regularizer or `add_loss`, are sums over all tasks. Received: "
                f"model={self.task_batched.model.name!r}, which adds some, "
                f"and {tasks} tasks. Remove them, or take one task."
            )
        total = tf.zeros([], dtype)
        for loss in losses:
            total += tf.reduce_sum(tf.cast(loss, dtype))
        return total
