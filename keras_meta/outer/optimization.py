"""Optimization problems under an update rule, as functions of a carry."""

from __future__ import annotations

import dataclasses
from typing import Any
from typing import NamedTuple

import tensorflow as tf

from keras_meta.inner.loop import unroll
from keras_meta.kernels.second_order import differentiate
from keras_meta.problems.problem import Problem
from keras_meta.update_rules.update_rule import UpdateRule


class Run(NamedTuple):
    """What is carried from step to step.

    Attributes:
        params: The parameters, `[instances, *shape]` each.
        rule_state: State of the update rule.
    """

    params: list[tf.Tensor]
    rule_state: Any


@dataclasses.dataclass(frozen=True)
class Optimization:
    """Optimizes instances of a problem by an update rule.

    Attributes:
        problem: The family of problems.
        rule: The update rule.
        second_order: Whether gradients that the rule sees are differentiated
            as functions of the parameters; else they count as constants.
        xla: Whether XLA will compile it.
    """

    problem: Problem
    rule: UpdateRule
    second_order: bool = False
    xla: bool = False

    def start(self, params: list[tf.Tensor]) -> Run:
        """Returns what is carried to the first step."""
        self.rule.ensure_attached(self.problem.variables)
        return Run(list(params), self.rule.init_state(params))

    def take_steps(
        self, run: Run, data: Any, first: int | tf.Tensor, steps: int
    ) -> tuple[Run, tf.Tensor]:
        """Takes steps.

        Args:
            run: The carry before them.
            data: Data of the instances, see `Problem.draw`.
            first: Number of the first step.
            steps: How many.

        Returns:
            The carry after them, and the losses before each step and after
            the last, `[steps + 1, instances]`.
        """

        def step(i, run):
            losses, gradients = self.evaluate(run, data, first + i)
            seen = losses if self.second_order else tf.stop_gradient(losses)
            state = self.rule.observe(run.rule_state, seen)
            params, state = self.rule.update(run.params, gradients, state)
            return Run(params, state), losses

        run, losses = unroll(step, run, steps, lay_out=False)
        last, _ = self.evaluate(run, data, first + steps)
        return run, tf.concat([losses, last[tf.newaxis]], axis=0)

    def evaluate(
        self, run: Run, data: Any, step: int | tf.Tensor
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns the losses, and the gradients that the rule sees."""
        losses, gradients = self._evaluate_at(run.params, data, step)
        if self.rule.attends:
            result, _ = self.rule.final(*run)
            losses, _ = self._evaluate_at(result, data, step)
        return losses, gradients

    def _evaluate_at(self, params, data, step):
        """Returns the losses and their gradients."""

        def compute():
            losses = self.problem.losses(
                params,
                data,
                step,
                second_order=self.second_order,
                xla=self.xla,
            )
            return losses, losses

        gradients, losses = differentiate(
            compute, params, again=self.second_order
        )
        if self.second_order:
            return losses, gradients
        gradients = [tf.stop_gradient(g) for g in gradients]
        return _with_gradients(losses, params, gradients), gradients


def _with_gradients(losses, params, gradients) -> tf.Tensor:
    """Returns losses whose gradients are known, to compute them only once.

    Args:
        losses: `[instances]`.
        params: `[instances, *shape]` each.
        gradients: Of each instance's loss, of the shapes of `params`.
    """

    @tf.custom_gradient
    def function(*params):
        def gradient(upstream):
            return [
                tf.reshape(
                    tf.cast(upstream, g.dtype),
                    [-1, *[1] * (g.shape.rank - 1)],
                )
                * g
                for g in gradients
            ]

        return tf.stop_gradient(losses), gradient

    return function(*params)
