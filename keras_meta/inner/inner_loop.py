"""The parts of an inner loop: its start, one step, and its predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.batching.shared_calls import SharedCalls
from keras_meta.batching.task_batched import TaskBatched
from keras_meta.batching.task_batched import TaskOutputs
from keras_meta.inner.inner_loss import InnerLoss
from keras_meta.kernels.second_order import differentiate
from keras_meta.update_rules.update_rule import UpdateRule


class Carry(NamedTuple):
    """What an inner loop carries from step to step.

    Attributes:
        weights: The adapted variables' values, `[tasks, *shape]` each.
        rule_state: State of the update rule.
        state: Values of the model's non-trainable variables.
    """

    weights: list[tf.Tensor]
    rule_state: Any
    state: list[tf.Tensor]


class Support(NamedTuple):
    """What one step learns from.

    Attributes:
        x: Inputs, nested as the model expects them, each `[tasks, n, ...]`.
        y: Labels, `[tasks, n, ...]`.
        sample_weight: Weights of the examples, `[tasks, n]`, or `None`.
    """

    x: Any
    y: tf.Tensor
    sample_weight: tf.Tensor | None = None


@dataclasses.dataclass(frozen=True)
class InnerLoop:
    """Adapts a model to tasks, as functions of a `Carry`.

    Attributes:
        task_batched: The model.
        update_rule: The update rule.
        batch_statistics: See `keras_meta.learners.learner.Learner`.
        steps: Steps in training.
    """

    task_batched: TaskBatched
    update_rule: UpdateRule
    batch_statistics: str
    steps: int

    def start(self, tasks: int | tf.Tensor) -> Carry:
        """Returns the carry of unadapted tasks."""
        # Another learner may have attached the same rule in the meantime.
        self.update_rule.ensure_attached(self.task_batched.adapted, self.steps)
        weights = [
            task_axis.stack(tf.convert_to_tensor(v.value), tasks)
            for v in self.task_batched.adapted
        ]
        return Carry(
            weights,
            self.update_rule.init_state(weights),
            self.task_batched.initial_state(),
        )

    def share(
        self,
        carry: Carry,
        x: Any,
        *,
        training: bool,
        first_order: bool,
        xla: bool,
    ) -> SharedCalls | None:
        """Computes what all steps on the same inputs have in common.

        Args:
            carry: The carry before the first step.
            x: What every step learns from.
            training: See `step`.
            first_order: See `step`.
            xla: See `step`.

        Returns:
            What to give each step, or `None` if all layers adapt.
        """
        if not self.task_batched.has_common_layers:
            return None
        shared = SharedCalls(x)
        self._on_support(carry, x, training, first_order, xla, shared)
        return shared

    def step(
        self,
        carry: Carry,
        support: Support,
        loss: InnerLoss,
        *,
        training: bool,
        first_order: bool,
        xla: bool,
        shared: SharedCalls | None = None,
    ) -> tuple[Carry, tf.Tensor]:
        """Takes one step.

        Args:
            carry: The carry before the step.
            support: What to learn from.
            loss: What to minimize.
            training: Whether layers run in training mode and the step will
                be differentiated.
            first_order: Whether the gradient counts as a constant then.
            xla: Whether the step will be compiled by XLA.
            shared: What `share` returned.

        Returns:
            The carry after the step and the losses before it, `[tasks]`.
        """

        def total_loss():
            result = self._on_support(
                carry, support.x, training, first_order, xla, shared
            )
            losses = loss(support.y, result.outputs, support.sample_weight)
            # Tasks are independent: the gradient of the sum holds each
            # task's own gradient.
            return tf.reduce_sum(losses), (losses, result.state)

        grads, (losses, state) = differentiate(
            total_loss,
            carry.weights,
            again=training and not first_order,
            required=True,
            layers=self.task_batched.layers,
        )
        seen = losses
        if first_order:
            grads = [tf.stop_gradient(g) for g in grads]
            seen = tf.stop_gradient(losses)
        rule_state = self.update_rule.observe(carry.rule_state, seen)
        weights, rule_state = self.update_rule.update(
            carry.weights, grads, rule_state
        )
        return Carry(weights, rule_state, state), losses

    def predict(
        self,
        carry: Carry,
        support_x: Any,
        query_x: Any,
        *,
        training: bool,
        xla: bool,
    ) -> tuple[Any, Carry, list[tf.Tensor]]:
        """Predicts query sets.

        Args:
            carry: The adapted weights.
            support_x: Inputs of the support sets, `[tasks, n, ...]` each,
                for batch statistics.
            query_x: Inputs to predict, `[tasks, q, ...]` each.
            training: Whether layers run in training mode.
            xla: Whether the call will be compiled by XLA.

        Returns:
            The predictions, the carry after them, and the losses that layers
            added.
        """
        statistics = self._statistics
        if self.batch_statistics == "support":
            statistics = self._support_statistics(
                carry, support_x, training=training, xla=xla
            )
        result = self.task_batched(
            carry.weights,
            carry.state,
            query_x,
            training=training,
            statistics=statistics,
            second_order=False,
            xla=xla,
        )
        carry = carry._replace(state=result.state)
        return result.outputs, carry, result.losses

    def one_task(self, carry: Carry, support_x: Any) -> Mapping[int, tf.Tensor]:
        """Returns the values of the first task's variables by `id(variable)`.

        Moving averages of batch normalization layers become the support
        set's statistics, unless the layers use moving averages.
        """
        values = {
            id(v): w[0]
            for v, w in zip(
                self.task_batched.adapted, carry.weights, strict=True
            )
        }
        if self.batch_statistics == "running":
            return values
        statistics = self._support_statistics(
            carry, support_x, training=False, xla=False
        )
        for layer in self.task_batched.model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                for mean, variance in statistics.get(id(layer), [])[-1:]:
                    values[id(layer.moving_mean)] = mean[0]
                    values[id(layer.moving_variance)] = variance[0]
        return values

    def _on_support(
        self,
        carry: Carry,
        x: Any,
        training: bool,
        first_order: bool,
        xla: bool,
        shared: SharedCalls | None,
    ) -> TaskOutputs:
        """Calls the model on what a step learns from, see `step`."""
        return self.task_batched(
            carry.weights,
            carry.state,
            x,
            training=training,
            statistics=self._statistics,
            second_order=training and not first_order,
            xla=xla,
            shared=shared,
        )

    @property
    def _statistics(self) -> str:
        return "running" if self.batch_statistics == "running" else "batch"

    def _support_statistics(
        self, carry: Carry, support_x, *, training: bool, xla: bool
    ):
        return self.task_batched(
            carry.weights,
            carry.state,
            support_x,
            training=training,
            second_order=False,
            xla=xla,
        ).statistics
