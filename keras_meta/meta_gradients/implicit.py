"""The gradient of a minimum, by the implicit function theorem."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import ClassVar

import keras
import tensorflow as tf

from keras_meta.checks import check_choice
from keras_meta.checks import check_number_at_least
from keras_meta.checks import check_positive
from keras_meta.checks import check_positive_number
from keras_meta.inner.inner_loop import InnerLoop
from keras_meta.inner.solver import Carry
from keras_meta.inner.solver import InnerGradient
from keras_meta.meta_gradients import linear_solvers
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.meta_gradients.objective import Adaptation
from keras_meta.meta_gradients.objective import Estimate
from keras_meta.meta_gradients.objective import MetaObjective
from keras_meta.update_rules.update_rule import UpdateRule

_NORM = "inner_gradient_norm"
_DOWNWARDS = "negative_curvature"
# A network with ReLUs has some anywhere.
_TOLERATED_DOWNWARDS = 0.01
_METHODS = ("conjugate_gradient", "neumann", "identity")


@keras.saving.register_keras_serializable("keras_meta")
@dataclasses.dataclass(frozen=True)
class Implicit(MetaGradient):
    """Differentiates the minimum that the inner loop finds, not its steps.

    Where the gradient `g` of the inner loss `l(p, theta)` is zero, the
    parameters `p` are a function of the meta-parameters, with

        dL / dtheta = -(dg / dtheta)^T w,    H w = dL / dp,

    `H` the Hessian of the inner loss. Nothing is kept of the steps, so
    memory does not grow with their number, and any update rule may take
    them, except one that learns: at a minimum, the rule does not matter. Each
    step of a linear solver costs about two gradients of the inner loss.

    Do not choose it where the inner loop stops early, as the gradient is
    biased then. `fit` logs two means over tasks, and warns of what they show:

    - `inner_gradient_norm`, the norm of the inner gradient after the last
      step, as a fraction of that before the first one; at a minimum it is 0.
    - `negative_curvature`, the share of tasks in which the inner loss curves
      downwards, so that conjugate gradient stops early.

    The initialization matters only through the inner loss, by a proximal
    term (see `ImplicitMAML`). Without one its gradient is zero, so few-shot
    learners refuse `start="learned"` then. With `start="drawn"` an inner loss
    can be learned, or layers that do not adapt. A factor of the loss does not
    move its minimum, so without a proximal term it learns nothing. Training
    data are constants.

    Args:
        method: How `H w = b` is solved: `"conjugate_gradient"`; `"neumann"`,
            the sum of `steps` terms `rate (I - rate H)^k b`, which is what
            backpropagation through as many steps of gradient descent at the
            minimum would give; `"identity"`, its first term, `rate b`.
        steps: Maximum number of steps of the linear solver, or number of
            terms of the series.
        damping: What is added to the diagonal of `H`.
        tolerance: Conjugate gradient stops when its residual is at most this
            fraction of `b`.
        rate: Rate of the Neumann series. It diverges where `H` has an
            eigenvalue above `2 / rate`.
        largest_gradient: The `inner_gradient_norm` above which `fit` warns.

    Raises:
        ValueError: If an argument is out of range.
        FloatingPointError: In `fit`, if the Neumann series diverges.

    Example:
    >>> import keras_meta
    >>> meta_gradient = keras_meta.Implicit(steps=5, damping=1.0)

    References:
        - [Rajeswaran et al., 2019](https://arxiv.org/abs/1909.04630),
          section 3, for conjugate gradient.
        - [Lorraine et al., 2020](https://arxiv.org/abs/1911.02590),
          algorithm 3, for the Neumann series.
        - [Luketina et al., 2016](https://arxiv.org/abs/1511.06727), section
          2, for the identity.
    """

    differentiates_steps: ClassVar[bool] = False
    logs: ClassVar[tuple[str, ...]] = (_NORM, _DOWNWARDS)

    method: str = "conjugate_gradient"
    steps: int = 5
    damping: float = 0.0
    tolerance: float = 1e-6
    rate: float = 0.1
    largest_gradient: float = 0.1

    def __post_init__(self) -> None:
        check_choice("method", self.method, _METHODS)
        check_positive(steps=self.steps)
        check_number_at_least(0, damping=self.damping, tolerance=self.tolerance)
        check_positive_number(
            rate=self.rate, largest_gradient=self.largest_gradient
        )

    def check(self, rule: UpdateRule, steps: int | None = None) -> None:
        """Refuses rules that learn; see `MetaGradient.check`."""
        super().check(rule, steps)
        if rule.trainable_variables:
            raise ValueError(
                "At a minimum it does not matter how the inner loop got "
                "there, so an implicit gradient is zero for learned rates and "
                f"rules. Received: update_rule={type(rule).__name__}, which "
                f"learns, and meta_gradient={self}. Pass a rule with "
                "learn=None, or meta_gradient=keras_meta.Unrolled()."
            )

    def check_start(self, learned: bool, proximal: float) -> None:
        """Refuses initial weights that stay; see `MetaGradient.check_start`."""
        if learned and not proximal:
            raise ValueError(
                "Without a proximal term a minimum does not depend on where "
                "the inner loop began, so an implicit gradient is zero for "
                "learned initial weights. Received: proximal=0, "
                f'start="learned", and meta_gradient={self}. Use '
                "keras_meta.ImplicitMAML, whose inner loss has a proximal "
                'term; start="drawn", to learn an inner loss or layers that '
                "do not adapt; or keras_meta.Unrolled()."
            )

    @property
    def hint(self) -> str:
        """Names the Neumann series; see `MetaGradient.hint`."""
        if self.method == "conjugate_gradient":
            return ""
        return (
            " Or the Neumann series diverges, because the inner loss curves "
            f"too much, or downwards: lower the rate of {self}."
        )

    def warning(self, logs: Mapping[str, float]) -> str | None:
        """Warns of points that are not minima."""
        norm, downwards = logs[_NORM], logs[_DOWNWARDS]
        found = []
        if norm > self.largest_gradient:
            found.append(
                f"the norm of the inner gradient is {norm:.2g} of that before "
                f"the first one, more than {self.largest_gradient}"
            )
        if downwards > _TOLERATED_DOWNWARDS:
            found.append(
                f"the inner loss curves downwards in {downwards:.1%} of the "
                "tasks, where conjugate gradient stopped early"
            )
        if not found:
            return None
        return (
            "The inner loop does not arrive at a minimum, so the implicit "
            f"gradient is biased. After the last step {', and '.join(found)}. "
            "Take more inner steps, raise the update rule's rate, the damping "
            "or the proximal term, or use meta_gradient=keras_meta.Unrolled()."
        )

    def solve(self, loop: InnerLoop) -> tuple[Carry, Any]:
        """Runs the inner loop; see `MetaGradient.solve`."""
        end, recorded = loop.as_constant().run()
        return end._replace(params=self._implied(loop, end)), recorded

    def _implied(self, loop: InnerLoop, end: Carry) -> list[tf.Tensor]:
        """Returns the parameters as a function of the meta-parameters."""
        params = list(map(tf.stop_gradient, end.params))
        inner_gradient = loop.solver.gradient_function(
            loop.problem, loop.data, end, loop.first + loop.steps
        )

        @tf.custom_gradient
        def implied(*theta):
            def gradient(*upstream):
                found, _ = self._pull_back(
                    inner_gradient, theta, params, upstream
                )
                return [
                    tf.zeros_like(t) if g is None else g
                    for g, t in zip(found, theta, strict=True)
                ]

            return [tf.identity(p) for p in params], gradient

        return implied(*loop.theta)

    def _pull_back(
        self,
        inner_gradient: InnerGradient,
        theta: Sequence[tf.Tensor],
        params: Sequence[tf.Tensor],
        upstream: Sequence[tf.Tensor],
    ) -> tuple[list[tf.Tensor | None], tf.Tensor]:
        """Turns derivatives by the parameters into those by `theta`.

        Returns:
            The derivatives, `None` for what the inner loss does not depend
            on, and for each task whether its system could be solved.
        """
        product = _hessian(inner_gradient, theta, params)
        solution = self._solve_linear(product, list(upstream))
        with tf.GradientTape() as tape:
            tape.watch(theta)
            gradients = inner_gradient(theta, params)
        found = tape.gradient(
            gradients,
            list(theta),
            output_gradients=[-x for x in solution.x],
        )
        _require_influence(found)
        return found, solution.is_valid

    def _solve_linear(
        self,
        product: Callable[[linear_solvers.Vectors], linear_solvers.Vectors],
        b: linear_solvers.Vectors,
    ) -> linear_solvers.Solution:
        """Returns `w` of `H w = b`."""

        def damped(vectors):
            return [
                m + self.damping * v
                for m, v in zip(product(vectors), vectors, strict=True)
            ]

        if self.method == "conjugate_gradient":
            return linear_solvers.conjugate_gradient(
                damped, b, self.steps, self.tolerance
            )
        terms = self.steps if self.method == "neumann" else 1
        solution = linear_solvers.neumann_series(damped, b, terms, self.rate)
        return solution._replace(x=linear_solvers.invalid_as_nan(solution))

    def estimate(self, objective: MetaObjective) -> Estimate:
        """Returns the gradient, and how near the minimum is.

        See `MetaGradient.estimate`.
        """
        variables = list(objective.variables)
        theta = [tf.convert_to_tensor(v) for v in variables]
        adaptation = objective.adapt()
        params = list(map(tf.stop_gradient, adaptation.end.params))
        end = adaptation.end._replace(params=params)
        with tf.GradientTape() as tape:
            tape.watch(params)
            loss, predictions = objective.outer_loss(
                adaptation._replace(end=end)
            )
            scaled = objective.scaled(loss)
        direct, upstream = tape.gradient(scaled, [variables, params])
        upstream = [
            tf.zeros_like(p) if g is None else g
            for g, p in zip(upstream, params, strict=True)
        ]
        implied, is_valid = self._pull_back(
            adaptation.inner_gradient, theta, params, upstream
        )
        return Estimate(
            [_sum(a, b) for a, b in zip(direct, implied, strict=True)],
            loss,
            predictions,
            {
                _NORM: _relative_norm(adaptation, theta),
                _DOWNWARDS: 1 - tf.reduce_mean(tf.cast(is_valid, loss.dtype)),
            },
        )


def _relative_norm(
    adaptation: Adaptation, theta: Sequence[tf.Tensor]
) -> tf.Tensor:
    """Returns what is left of the inner gradient, the mean over tasks."""
    before, after = (
        linear_solvers.norm(adaptation.inner_gradient(theta, carry.params))
        for carry in (adaptation.start, adaptation.end)
    )
    return tf.reduce_mean(tf.math.divide_no_nan(after, before))


def _sum(a: tf.Tensor | None, b: tf.Tensor | None) -> tf.Tensor | None:
    """Returns the sum of gradients that may be missing."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


def _hessian(inner_gradient, theta, params):
    """Returns a function that multiplies by the Hessian of each task."""

    def product(vectors):
        with tf.GradientTape() as tape:
            tape.watch(params)
            gradients = inner_gradient(theta, params)
        return tape.gradient(
            gradients,
            params,
            output_gradients=vectors,
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )

    return product


def _require_influence(gradients: Sequence[tf.Tensor | None]) -> None:
    if all(g is None for g in gradients):
        raise ValueError(
            "The inner loss must depend on a meta-parameter: the minimum "
            "of one that does not is the same for all of them, and so the "
            "implicit gradient is zero. Received: an inner loss of the "
            "adapted weights alone. Use keras_meta.ImplicitMAML, whose inner "
            "loss has a proximal term, or keras_meta.Unrolled()."
        )
