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
from keras_meta.meta_gradients.noise_reuse_es import NoiseReuseES
from keras_meta.update_rules.update_rule import UpdateRule


def check_meta_gradient(
    meta_gradient: MetaGradient, steps: int, start: str
) -> None:
    """Refuses a meta-gradient that cannot learn hyperparameters.

    Args:
        meta_gradient: How the gradient comes back.
        steps: Steps of a run, or of a window of a kept run.
        start: Where a run begins.

    Raises:
        ValueError: If it learns something else, or its windows do not fit.
    """
    if isinstance(meta_gradient, Displacement):
        raise ValueError(
            "`meta_gradient` must reach the hyperparameters. Received: "
            f"meta_gradient={meta_gradient}, which learns initial weights "
            "only. Use keras_meta.Unrolled() or keras_meta.Implicit()."
        )
    if start == "kept" and isinstance(meta_gradient, NoiseReuseES):
        raise ValueError(
            "A kept run never ends, so it would see one direction alone. "
            f"Received: meta_gradient={meta_gradient}, start='kept'. Use "
            'keras_meta.PersistentES, or runs that end: start="initial" or '
            '"drawn", with the steps of a run as `steps` and those of a '
            "window as `length`."
        )
    length = meta_gradient.length
    if length is None or length >= steps:
        return
    if start == "kept":
        raise ValueError(
            "In a kept run, a step of `fit` is a window of `steps` steps. "
            f"Received: meta_gradient={meta_gradient}, steps={steps}. Use "
            f'steps={length}; or start="initial" or "drawn", for runs of '
            f"{steps} steps that begin anew."
        )
    if steps % length:
        raise ValueError(
            "The steps of a window must divide those of a run. Received: "
            f"meta_gradient={meta_gradient}, steps={steps}. Use, for "
            f"instance, steps={steps - steps % length}."
        )


def check_counted_steps(rule: UpdateRule, start: str, steps: int) -> None:
    """Refuses a rule that has weights for fewer steps than a run takes.

    Args:
        rule: The update rule.
        start: Where a meta-step begins, see `HyperparameterLearner`.
        steps: Inner steps of a meta-step.

    Raises:
        ValueError: If runs go on after the steps that the rule knows.
    """
    if rule.counts_steps and start == "kept":
        raise ValueError(
            f"The rule has weights for {steps} steps, and a run that is kept "
            "takes more: after the first meta-step, only those of the last "
            "step would be used and learned. Received: "
            f"update_rule={type(rule).__name__} with weights per step, and "
            'start="kept". Use start="initial" or start="drawn", and as many '
            "steps as the run has, or share rates among steps, as "
            'learn="layer" does.'
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
