"""A Keras model that adapts to tasks, from a learned initialization."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.batching.task_batched import TaskBatched
from keras_meta.batching.task_batched import TaskOutputs
from keras_meta.inner.problem import InnerProblem


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdaptingProblem(InnerProblem):
    """Tasks to which weights of one model adapt.

    Attributes:
        task_batched: The model. Its adapted variables are the parameters,
            except the last `fixed` of them.
        fixed: How many variables differ between tasks and do not adapt, with
            `theta_per_task`.
    """

    task_batched: TaskBatched
    fixed: int = 0

    def learned_start(
        self, theta: Sequence[tf.Tensor], tasks: int | tf.Tensor
    ) -> list[tf.Tensor]:
        """Returns the learned initialization, `[tasks, *shape]` each.

        Args:
            theta: Values of the meta-parameters.
            tasks: Number of tasks.
        """
        values = self.adapted_values(theta)
        values = values[: len(values) - self.fixed]
        stack = task_axis.stack_to if self.theta_per_task else task_axis.stack
        return [stack(value, tasks) for value in values]

    def adapted_values(self, theta: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Returns the values of the variables that differ between tasks."""
        values = {
            id(v): value for v, value in zip(self.variables, theta, strict=True)
        }

        def value_of(variable):
            if id(variable) in values:
                return values[id(variable)]
            # Frozen variables may adapt without being learned. Then all tasks
            # begin with the same value.
            value = tf.convert_to_tensor(variable.value)
            return value[tf.newaxis] if self.theta_per_task else value

        return list(map(value_of, self.task_batched.adapted))

    def call_model(
        self,
        theta: Sequence[tf.Tensor],
        x: Any,
        params: Sequence[tf.Tensor],
        state: Sequence[tf.Tensor],
        *,
        second_order: bool = False,
        **options: Any,
    ) -> TaskOutputs:
        """Calls the model for all tasks.

        Args:
            theta: Values of the meta-parameters.
            x: Inputs, `[tasks, n, ...]` each.
            params: The parameters, `[tasks, *shape]` each.
            state: Values of the model's other variables.
            second_order: Whether a second derivative will be taken.
            **options: Further options of `TaskBatched`.
        """
        values = list(params)
        if self.fixed:
            values += self.adapted_values(theta)[-self.fixed :]
        with self.scope_of_shared(theta):
            return self.task_batched(
                values,
                state,
                x,
                second_order=second_order,
                xla=self.xla,
                **options,
            )

    def scope_of_shared(
        self, theta: Sequence[tf.Tensor]
    ) -> contextlib.AbstractContextManager:
        """Gives the variables that all tasks share their values."""
        if self.theta_per_task:
            return contextlib.nullcontext()
        return self.scope(theta)
