"""Gradient descent on the influence-balancing problem, by one estimator."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf

import keras_meta
from experiments import influence_balancing
from experiments.influence_balancing import InfluenceBalancing
from experiments.plotting import name_of
from keras_meta import MetaGradient

METHODS = ("truncated", "es", "pes", "nres")
_STRATEGIES = {
    "es": keras_meta.EvolutionStrategies,
    "pes": keras_meta.PersistentES,
    "nres": keras_meta.NoiseReuseES,
}
# What windows before the present one did to the state counts as constant.
_TRUNCATING = ("truncated", "es")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Everything that a comparison depends on.

    Attributes:
        theta: The meta-parameter to begin with.
        rate: Rate of the descent.
        meta_steps: Its steps, with a window of the run each.
        particles: Pairs of particles of evolution strategies.
        sigma: Standard deviation of their perturbations.
        seeds: How many descents to make, each with other perturbations.
        held: After how many windows at the first `theta`, in which the state
            settles, to look at gradients.
        held_seeds: At how many of them.
    """

    theta: float
    rate: float
    meta_steps: int
    particles: int
    sigma: float
    seeds: int
    held: int
    held_seeds: int


@dataclasses.dataclass(frozen=True)
class Estimator:
    """An estimator of the meta-gradient.

    Attributes:
        method: One of `METHODS`, or `"exact"`.
        window: Steps of a window; `None` for all steps of a run.
    """

    method: str
    window: int | None

    @property
    def name(self) -> str:
        """Name in tables and figures."""
        if self.window is None:
            return name_of(self.method)
        return f"{name_of(self.method)}, window {self.window}"

    def expected(self, theta: float) -> float:
        """Returns the mean of what is estimated where the state has settled."""
        steps = self.window if self.method in _TRUNCATING else None
        return influence_balancing.gradient(theta, steps)

    def meta_gradient(self, particles: int, sigma: float) -> MetaGradient:
        """Returns the library's object."""
        if self.method == "truncated":
            return keras_meta.Truncated(self.window)
        return _STRATEGIES[self.method](particles, sigma, self.window)


class Descent(NamedTuple):
    """The way of the meta-parameter.

    Attributes:
        thetas: Its values after each meta-step.
        gradients: The estimates before.
    """

    thetas: np.ndarray
    gradients: np.ndarray


class Measured(NamedTuple):
    """What is measured of an estimator.

    Attributes:
        descents: From the first `theta`, `[seeds, meta_steps]` each.
        held: Gradients at the first `theta` where the state has settled,
            `[held_seeds]`.
        seconds: Mean time of a descent, without tracing.
    """

    descents: Descent
    held: np.ndarray
    seconds: float


def measure(estimator: Estimator, settings: Settings) -> Measured:
    """Descends from several seeds, and looks at gradients.

    Whatever draws no random numbers is measured once.
    """
    if estimator.method == "exact":
        return _measure_exact(settings)
    meta_gradient = estimator.meta_gradient(settings.particles, settings.sigma)
    descend = _traced(meta_gradient, settings)
    once = not meta_gradient.draws_random_numbers
    held = [
        descend(seed, 0.0, settings.held).gradients[-1]
        for seed in range(1 if once else settings.held_seeds)
    ]
    start = time.monotonic()
    descents = [
        descend(seed, settings.rate, settings.meta_steps)
        for seed in range(1 if once else settings.seeds)
    ]
    seconds = (time.monotonic() - start) / len(descents)
    return Measured(
        Descent(*map(np.stack, zip(*descents, strict=True))),
        np.array(held),
        seconds,
    )


def _traced(
    meta_gradient: MetaGradient, settings: Settings
) -> Callable[[int, float, int], Descent]:
    """Returns a function of a seed, a rate and the number of meta-steps."""
    runs = InfluenceBalancing()
    length = meta_gradient.length

    # XLA takes longer to compile long windows, and to draw.
    @tf.function(
        input_signature=[
            tf.TensorSpec([], tf.int32),
            tf.TensorSpec([], tf.float32),
            tf.TensorSpec([], tf.int32),
        ],
    )
    def descend(seed, rate, meta_steps):
        def take_step(number, theta, memory, thetas, gradients):
            window = meta_gradient.take_window(
                runs,
                [theta],
                memory,
                number * length,
                length,
                tf.stack([seed, number]),
            )
            (gradient,) = window.gradients
            theta -= rate * gradient
            thetas = thetas.write(number, theta)
            gradients = gradients.write(number, gradient)
            return number + 1, theta, window.memory, thetas, gradients

        theta = tf.constant(settings.theta)
        number = tf.constant(0)
        memory = meta_gradient.begin_runs(
            runs, [theta], tf.stack([seed, number])
        )
        history = tf.TensorArray(tf.float32, meta_steps, element_shape=[])
        *_, thetas, gradients = tf.while_loop(
            lambda number, *_: number < meta_steps,
            take_step,
            (number, theta, memory, history, history),
        )
        return thetas.stack(), gradients.stack()

    function = descend.get_concrete_function()

    def call(seed, rate, meta_steps):
        histories = function(
            tf.constant(seed), tf.constant(rate), tf.constant(meta_steps)
        )
        return Descent(*(x.numpy() for x in histories))

    return call


def _measure_exact(settings: Settings) -> Measured:
    start = time.monotonic()
    theta, thetas, gradients = settings.theta, [], []
    for _ in range(settings.meta_steps):
        gradients.append(influence_balancing.gradient(theta))
        theta -= settings.rate * gradients[-1]
        thetas.append(theta)
    return Measured(
        Descent(np.array([thetas]), np.array([gradients])),
        np.array([influence_balancing.gradient(settings.theta)]),
        time.monotonic() - start,
    )
