"""Adapting a Keras model to the support sets of tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.batching.shared_calls import SharedCalls
from keras_meta.batching.task_batched import TaskOutputs
from keras_meta.inner.adapting import AdaptingProblem
from keras_meta.inner.batch import Batch
from keras_meta.inner.inner_loss import InnerLoss
from keras_meta.inner.problem import Derivatives

# Where tasks begin, if initial weights are not learned: an entry of the data,
# with a list of tensors `[tasks, *shape]`, one for each adapted variable.
DRAWN_WEIGHTS = "drawn_weights"


def whole_support(data: Mapping[str, Any], step: int | tf.Tensor) -> Batch:
    """Returns the whole support set, for every step.

    Args:
        data: A batch of tasks, see `Learner.call`.
        step: Number of the step.
    """
    return Batch(
        data["support_x"],
        data["support_y"],
        data.get("support_sample_weight"),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShotProblem(AdaptingProblem):
    """Few-shot tasks: a model adapts to support sets and predicts queries.

    Its data are the inputs of `Learner.call`, and `DRAWN_WEIGHTS` where tasks
    begin at drawn weights. All others begin at the learned initialization.

    Attributes:
        inner_loss: What a step descends, except the proximal term.
        proximal: See `keras_meta.learners.learner.Learner`.
        batch_statistics: See `keras_meta.learners.learner.Learner`.
        training: Whether layers run in training mode.
        support_of_step: Maps the data and the number of a step to what the
            step learns from.
        shared: What all steps share, see `prepared`.
    """

    inner_loss: InnerLoss
    proximal: float = 0.0
    batch_statistics: str
    training: bool
    support_of_step: Callable[[Any, int | tf.Tensor], Batch] = whole_support
    shared: SharedCalls | None = None

    @property
    def layers(self) -> Sequence[keras.Layer]:
        """All layers of the model and of the inner loss."""
        loss = self.inner_loss.layer_loss
        return self.task_batched.layers + ([] if loss is None else loss.layers)

    def start(self, theta, data):
        """Begins at learned or drawn weights; see `InnerProblem.start`."""
        drawn = data.get(DRAWN_WEIGHTS)
        if drawn is not None:
            return list(drawn), self.task_batched.initial_state()
        tasks = task_axis.size(data["support_y"], 0)
        values = self.learned_start(theta, tasks)
        return values, self.task_batched.initial_state()

    def loss(
        self,
        theta,
        data,
        params,
        state,
        step,
        derivatives=Derivatives.NONE,
    ):
        """Returns the losses of support sets; see `InnerProblem.loss`."""
        support = self.support_of_step(data, step)
        result = self._on_support(theta, support.x, params, state, derivatives)
        with self.scope_of_shared(theta):
            losses = self.inner_loss(
                support.y,
                result.outputs,
                support.sample_weight,
                features=support.x,
                weights=self._weights_of_loss(theta),
            )
        if self.proximal:
            losses += self._proximal_terms(theta, data, params, losses.dtype)
        return losses, result.state

    def prepared(self, theta, data, params, state, derivatives):
        """Calls layers once that do not adapt; see `InnerProblem.prepared`."""
        x = self.support_of_step(data, 0).x
        if (
            x is not data["support_x"]
            or self.theta_per_task
            or not self.task_batched.has_common_layers
        ):
            return self
        problem = dataclasses.replace(self, shared=SharedCalls(x))
        problem._on_support(theta, x, params, state, derivatives)
        return problem

    def predict(
        self,
        theta: Sequence[tf.Tensor],
        data: Mapping[str, Any],
        params: Sequence[tf.Tensor],
        state: Sequence[tf.Tensor],
    ) -> TaskOutputs:
        """Predicts query sets.

        Args:
            theta: Values of the meta-parameters.
            data: The tasks. Support sets serve for batch statistics.
            params: The adapted parameters.
            state: The state after the inner loop.

        Returns:
            The predictions, the state after them, and the losses that layers
            added.
        """
        statistics = self._statistics
        if self.batch_statistics == "support":
            statistics = self._call(
                theta, data["support_x"], params, state
            ).statistics
        return self._call(
            theta, data["query_x"], params, state, statistics=statistics
        )

    def one_task(
        self,
        support_x: Any,
        params: Sequence[tf.Tensor],
        state: Sequence[tf.Tensor],
        task: int = 0,
    ) -> Mapping[int, tf.Tensor]:
        """Returns the values of one task's variables by `id(variable)`.

        Moving averages of batch normalization layers become the support
        set's statistics, unless the layers use moving averages.

        Args:
            support_x: Inputs of the support sets, `[tasks, n, ...]` each.
            params: The adapted parameters.
            state: The state after the inner loop.
            task: Which of the tasks.
        """
        adapted = self.task_batched.adapted
        values = {id(v): w[task] for v, w in zip(adapted, params, strict=True)}
        if self.batch_statistics == "running":
            return values
        statistics = self.task_batched(
            params,
            state,
            support_x,
            training=self.training,
            second_order=False,
        ).statistics
        for layer in self.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                for mean, variance in statistics.get(id(layer), [])[-1:]:
                    values[id(layer.moving_mean)] = mean[task]
                    values[id(layer.moving_variance)] = variance[task]
        return values

    def _proximal_terms(
        self, theta, data, params, dtype: tf.DType
    ) -> tf.Tensor:
        """Returns the proximal term of each task, `[tasks]`."""
        starts = data.get(DRAWN_WEIGHTS)
        if starts is None:
            starts = self.adapted_values(theta)[: len(params)]
            if not self.theta_per_task:
                starts = [start[tf.newaxis] for start in starts]
        squares = [
            tf.reduce_sum(tf.square(p - s), list(range(1, p.shape.rank)))
            for p, s in zip(params, starts, strict=True)
        ]
        total = tf.add_n([tf.cast(square, dtype) for square in squares])
        return self.proximal / 2 * total

    def _on_support(
        self, theta, x, params, state, derivatives: Derivatives
    ) -> TaskOutputs:
        return self._call(
            theta,
            x,
            params,
            state,
            statistics=self._statistics,
            second_order=derivatives is Derivatives.SECOND,
            shared=self.shared,
        )

    def _call(self, theta, x, params, state, **options) -> TaskOutputs:
        """Calls the model for all tasks."""
        return self.call_model(
            theta, x, params, state, training=self.training, **options
        )

    def _weights_of_loss(self, theta) -> list[tf.Tensor] | None:
        """Returns what the inner loss learns, where tasks differ in it."""
        loss = self.inner_loss.layer_loss
        if loss is None or not self.theta_per_task:
            return None
        values = {
            id(v): value for v, value in zip(self.variables, theta, strict=True)
        }
        return [values[id(v)] for v in loss.variables]

    @property
    def _statistics(self) -> str:
        return "running" if self.batch_statistics == "running" else "batch"
