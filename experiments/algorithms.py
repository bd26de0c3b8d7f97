"""The algorithms that experiments compare, by name."""

from __future__ import annotations

import dataclasses

import keras

from keras_meta.learners.anil import ANIL
from keras_meta.learners.implicit_maml import ImplicitMAML
from keras_meta.learners.learner import Learner
from keras_meta.learners.maml import MAML
from keras_meta.learners.meta_sgd import MetaSGD
from keras_meta.learners.reptile import Reptile
from keras_meta.meta_gradients.implicit import Implicit
from keras_meta.update_rules.adam import Adam
from keras_meta.update_rules.momentum import Momentum

# Algorithms with a proximal term, which take `ImplicitOptions`.
HAS_PROXIMAL_TERM = ("implicit_maml", "proximal_maml")


@dataclasses.dataclass(frozen=True)
class ImplicitOptions:
    """What implicit MAML has besides MAML's options.

    MAML through the same inner loop takes its own of them.

    Attributes:
        proximal: Strength of the proximal term.
        momentum: Momentum of the inner loop.
        cg_steps: Steps of conjugate gradient; with 0, the gradient by the
            adapted weights is taken as that by the initialization.
        damping: See `keras_meta.Implicit`.
    """

    proximal: float
    momentum: float
    cg_steps: int
    damping: float

    @property
    def meta_gradient(self) -> Implicit:
        """The meta-gradient."""
        if self.cg_steps:
            return Implicit(steps=self.cg_steps, damping=self.damping)
        # This rate makes the length of the first term that of its argument.
        return Implicit("identity", rate=1 / self.proximal)


def make_learner(
    algorithm: str,
    model: keras.Model,
    *,
    inner_rate: float | None,
    steps: int,
    evaluation_steps: int,
    batch_size: int | None = None,
    seed: int = 0,
    batch_statistics: str = "batch",
    implicit: ImplicitOptions | None = None,
) -> Learner:
    """Makes an uncompiled learner.

    Args:
        algorithm: `"maml"`, `"fomaml"`, `"implicit_maml"`, `"proximal_maml"`
            (MAML through the inner loop of implicit MAML), `"anil"`,
            `"meta_sgd"` or `"reptile"`.
        model: A built model.
        inner_rate: Rate of the inner loop. For Reptile, the rate of Adam
            without a first moment. For Meta-SGD, the initial rate, or `None`
            for the published distribution.
        steps: Inner steps in training.
        evaluation_steps: Inner steps in tests.
        batch_size: Number of support examples in a step of Reptile.
        seed: Seed of the learner's random numbers.
        batch_statistics: See `keras_meta.learners.learner.Learner`.
        implicit: Options of implicit and of proximal MAML; `None` for the
            others.
    """
    options = {
        "steps": steps,
        "evaluation_steps": evaluation_steps,
        "batch_statistics": batch_statistics,
    }
    if algorithm == "reptile":
        rule = Adam(inner_rate, beta_1=0.0)
        return Reptile(model, rule, batch_size=batch_size, seed=seed, **options)
    if algorithm == "meta_sgd":
        return MetaSGD(model, inner_rate, seed=seed, **options)
    if algorithm == "anil":
        return ANIL(model, inner_rate, **options)
    if algorithm in HAS_PROXIMAL_TERM:
        rule = Momentum(inner_rate, momentum=implicit.momentum)
        options["proximal"] = implicit.proximal
        if algorithm == "proximal_maml":
            return MAML(model, rule, **options)
        return ImplicitMAML(
            model, rule, meta_gradient=implicit.meta_gradient, **options
        )
    meta_gradient = "first_order" if algorithm == "fomaml" else "unrolled"
    return MAML(model, inner_rate, meta_gradient=meta_gradient, **options)


def outer_rate(
    rate: float, decay: str, iterations: int | None
) -> float | keras.optimizers.schedules.LearningRateSchedule:
    """Returns the rate of the outer optimizer.

    Args:
        rate: The initial rate.
        decay: `"none"`, `"linear"` to zero, `"cosine"` to a hundredth, or
            `"halving"` again and again.
        iterations: Number of iterations in which it decays.
    """
    schedules = keras.optimizers.schedules
    if decay == "linear":
        return schedules.PolynomialDecay(rate, iterations, 0.0)
    if decay == "cosine":
        return schedules.CosineDecay(rate, iterations, alpha=0.01)
    if decay == "halving":
        return schedules.ExponentialDecay(rate, iterations, 0.5, staircase=True)
    return rate
