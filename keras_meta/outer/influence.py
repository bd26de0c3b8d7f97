"""Which hyperparameters a meta-gradient can reach."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_meta.inner.problem import Derivatives
from keras_meta.inner.solver import Carry
from keras_meta.inner.solver import Solver
from keras_meta.inner.training import TrainingProblem
from keras_meta.meta_gradients.displacement import Displacement
from keras_meta.meta_gradients.meta_gradient import MetaGradient


def check_meta_gradient(meta_gradient: MetaGradient, steps: int) -> None:
    """Refuses a meta-gradient that cannot learn hyperparameters.

    Args:
        meta_gradient: How the gradient comes back.
        steps: Inner steps of a meta-step.

    Raises:
        ValueError: If it learns something else, or takes shorter windows.
    """
    if isinstance(meta_gradient, Displacement):
        raise ValueError(
            "`meta_gradient` must reach the hyperparameters. Received: "
            f"meta_gradient={meta_gradient}, which learns initial weights "
            "only. Use keras_meta.Unrolled() or keras_meta.Implicit()."
        )
    length = meta_gradient.length
    if length is not None and length < steps:
        raise ValueError(
            "A step of `fit` is one window: it takes `steps` inner steps, and "
            "then the hyperparameters learn. Received: meta_gradient="
            f"{meta_gradient}, steps={steps}. Use steps={length}, with "
            'start="kept" to go on from window to window.'
        )


def check_influence(
    meta_gradient: MetaGradient,
    solver: Solver,
    problem: TrainingProblem,
    begin: Callable[[Sequence[tf.Tensor]], Carry],
    names: Sequence[str],
) -> None:
    """Refuses hyperparameters whose gradient would be zero.

    Looks at one step and computes nothing: call it in a graph.

    Args:
        meta_gradient: How the gradient comes back.
        solver: The inner loop.
        problem: What it optimizes.
        begin: Maps the meta-parameters to the carry before the first step.
        names: Names of the meta-parameters.

    Raises:
        ValueError: If training does not depend on one, or the meta-gradient
            does not see how.
    """

    def of_step(derivatives):
        theta = [tf.convert_to_tensor(v.value) for v in problem.variables]
        with tf.GradientTape() as tape:
            tape.watch(theta)
            end, _ = solver.step(
                problem, theta, (), begin(theta), 0, derivatives
            )
        return _missing(names, tape.gradient(end.params, theta))

    def of_minimum():
        theta = [tf.convert_to_tensor(v.value) for v in problem.variables]
        carry = begin(theta)
        gradient = solver.gradient_function(problem, (), carry, 0)
        with tf.GradientTape() as tape:
            tape.watch(theta)
            gradients = gradient(theta, carry.params)
        return _missing(names, tape.gradient(gradients, theta))

    _require_none(
        of_step(Derivatives.SECOND),
        "Training must depend on every hyperparameter. It does not on {}: "
        "nothing that a step descends reads it, or it adds what does not "
        "depend on the weights. Give it to a regularizer, a layer or "
        "`inner_loss`, remove it, or set trainable=False.",
    )
    if not meta_gradient.differentiates_calls:
        # It compares runs, and differentiates nothing.
        return
    if not meta_gradient.differentiates_steps:
        _require_none(
            of_minimum(),
            "Where training ends at a minimum, it does not matter how it came "
            f"there, so the gradient of {meta_gradient} is zero for {{}}. "
            "Use keras_meta.Unrolled().",
        )
    elif not meta_gradient.takes_second_derivatives:
        _require_none(
            of_step(Derivatives.FIRST),
            f"{meta_gradient} takes the gradients of the training loss as "
            "constants, so the gradient is zero for what acts on the loss: "
            "{}. Use keras_meta.Unrolled() or keras_meta.Implicit().",
        )


def check_direct_influence(
    outer_loss: Callable[[], tf.Tensor],
    variables: Sequence[keras.Variable],
    names: Sequence[str],
    message: str,
) -> None:
    """Refuses hyperparameters that the validation loss does not read.

    Computes nothing: call it in a graph.

    Args:
        outer_loss: Returns the validation loss.
        variables: The hyperparameters.
        names: Their names.
        message: The error, with `{}` for the names.

    Raises:
        ValueError: If the loss does not read one.
    """
    with tf.GradientTape() as tape:
        loss = outer_loss()
    gradients = tape.gradient(loss, [v.value for v in variables])
    _require_none(_missing(names, gradients), message)


def _missing(
    names: Sequence[str], gradients: Sequence[tf.Tensor | None]
) -> list[str]:
    pairs = zip(names, gradients, strict=True)
    return [name for name, gradient in pairs if gradient is None]


def _require_none(names: Sequence[str], message: str) -> None:
    if names:
        raise ValueError(message.format(", ".join(map(repr, names))))
