"""Reptile's step toward adapted parameters."""

from __future__ import annotations

import dataclasses
from typing import Any
from typing import ClassVar

import keras
import tensorflow as tf

from keras_meta.inner.inner_loop import InnerLoop
from keras_meta.inner.solver import Carry
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.meta_gradients.objective import Estimate
from keras_meta.meta_gradients.objective import MetaObjective
from keras_meta.update_rules.update_rule import UpdateRule


@keras.saving.register_keras_serializable("keras_meta")
@dataclasses.dataclass(frozen=True)
class Displacement(MetaGradient):
    """Takes the reversed displacement of the inner loop as the gradient.

    The gradient for the initialization is `start - mean over tasks of p[T]`,
    with the adapted parameters `p[T]`. It is not the derivative of a loss,
    and query sets do not matter. With `keras.optimizers.SGD(e)` the
    initialization moves by the fraction `e` of the way.

    It takes no more time and memory than the inner loop. It learns only an
    initialization, so rates, rules and losses must not learn.

    Example:
    >>> import keras_meta
    >>> meta_gradient = keras_meta.Displacement()

    References:
        - [Nichol et al., 2018](https://arxiv.org/abs/1803.02999),
          algorithm 2.
    """

    takes_second_derivatives: ClassVar[bool] = False
    differentiates_steps: ClassVar[bool] = False
    differentiates_calls: ClassVar[bool] = False

    def check(self, rule: UpdateRule, steps: int | None = None) -> None:
        """Refuses rules that learn; see `MetaGradient.check`."""
        super().check(rule, steps)
        if rule.trainable_variables:
            raise ValueError(
                "A displacement says nothing about learned rates or rules. "
                f"Received: update_rule={type(rule).__name__}, which learns, "
                f"and meta_gradient={self}. Pass an update rule with "
                "learn=None, or use keras_meta.MAML or keras_meta.MetaSGD."
            )

    def check_start(self, learned: bool, proximal: float) -> None:
        """Refuses drawn weights; see `MetaGradient.check_start`."""
        if not learned:
            raise ValueError(
                "A displacement moves learned initial weights, and nothing "
                "else. Received: initial weights that are drawn or frozen, and "
                f'meta_gradient={self}. Use start="learned", or '
                "meta_gradient=keras_meta.Unrolled()."
            )

    def solve(self, loop: InnerLoop) -> tuple[Carry, Any]:
        """Runs the inner loop; see `MetaGradient.solve`."""
        return loop.as_constant().run()

    def estimate(self, objective: MetaObjective) -> Estimate:
        """Returns how far parameters moved; see `MetaGradient.estimate`."""
        adaptation = objective.adapt()
        loss, predictions = objective.outer_loss(adaptation)
        moves = {
            id(variable): objective.scaled(
                tf.reduce_mean(before - after, axis=0) / objective.replicas
            )
            for variable, before, after in zip(
                adaptation.variables,
                adaptation.start.params,
                adaptation.end.params,
                strict=True,
            )
        }
        gradients = [moves.get(id(v)) for v in objective.variables]
        return Estimate(gradients, loss, predictions)
