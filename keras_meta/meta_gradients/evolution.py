"""What evolution strategies have in common.

A *pair* of particles is two copies of the meta-parameters, perturbed by the
same noise with opposite signs. Particles lie side by side as *rows*, the
leading axis of everything they compute: first the `+` of all pairs, then the
`-` of all pairs, and within each the pairs of all tasks, `[particles,
tasks]`, flattened. So a row is a task that has meta-parameters of its own.

Few-shot tasks are short and run whole in every meta-step; `estimate` does
that. Long runs are cut into *windows*, with a meta-step after each. These
four methods are pure functions of explicit memory, for any inner loop:

    noise = strategy.noise(theta, seed, tasks)
    particles = strategy.begin(start, theta, noise)
    while True:
        window = strategy.window(run, theta, particles, noise, first, steps)
        # ... use window.gradients, which are for `theta`
        particles = window.particles
        noise = strategy.noise(theta, next_seed, tasks)

`start(theta)` returns the carry before the first step, and `run(theta, carry,
first, steps)` the losses of a window, `[rows]`, and the carry after it. Both
get one row of `theta` for each particle. The first window of a run gets the
noise that `begin` got, as the start may depend on `theta`. Where runs of
several tasks end at different times, `restart` begins some of them anew.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import ClassVar
from typing import NamedTuple
from typing import Protocol

import keras
import tensorflow as tf

from keras_meta.checks import check_choice
from keras_meta.checks import check_int64
from keras_meta.checks import check_positive
from keras_meta.checks import check_positive_number
from keras_meta.inner.inner_loop import InnerLoop
from keras_meta.inner.solver import Carry
from keras_meta.meta_gradients._perturbations import DRAWS
from keras_meta.meta_gradients._perturbations import antithetic
from keras_meta.meta_gradients._perturbations import difference_estimate
from keras_meta.meta_gradients._perturbations import draw_noise
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.meta_gradients.objective import Estimate
from keras_meta.meta_gradients.objective import MetaObjective
from keras_meta.meta_gradients.runs import Runs
from keras_meta.meta_gradients.runs import WindowEstimate
from keras_meta.update_rules.update_rule import UpdateRule


class Particles(NamedTuple):
    """Runs in progress.

    Attributes:
        carry: What the inner loop carries, nested tensors `[rows, ...]`.
        noise: What the strategy remembers of each pair's noise,
            `[particles * tasks, *shape]` each, or nothing.
    """

    carry: Any
    noise: list[tf.Tensor]


class Window(NamedTuple):
    """What a window of a run says about the meta-parameters.

    Attributes:
        gradients: One for each meta-parameter, the mean over tasks.
        particles: The runs after the window.
        losses: The losses of the window, `[rows]`.
    """

    gradients: list[tf.Tensor]
    particles: Particles
    losses: tf.Tensor


class WindowNoise(NamedTuple):
    """The noise of a window, each part as `Particles.noise` has it.

    Attributes:
        perturbs: What the meta-parameters are perturbed by.
        directions: What differences of losses are multiplied by.
        kept: What to remember for the next window.
    """

    perturbs: Sequence[tf.Tensor]
    directions: Sequence[tf.Tensor]
    kept: Sequence[tf.Tensor]


class Run(Protocol):
    """Part of the inner loop of all rows."""

    def __call__(
        self,
        theta: list[tf.Tensor],
        carry: Any,
        first: int | tf.Tensor,
        steps: int,
    ) -> tuple[tf.Tensor, Any]:
        """Takes steps.

        Args:
            theta: Values of the meta-parameters, `[rows, *shape]` each.
            carry: The carry before the first step, `[rows, ...]` each.
            first: Number of the first step.
            steps: How many steps to take.

        Returns:
            The losses of these steps, `[rows]`, and the carry after them.
        """


@dataclasses.dataclass(frozen=True)
class Evolution(MetaGradient, abc.ABC):
    """Base of meta-gradients that compare perturbed meta-parameters.

    See the module for how to use one on the windows of a run.

    Args:
        particles: Pairs of perturbed meta-parameters for each task.
        sigma: Standard deviation of the perturbations, one for all
            meta-parameters.
        length: Steps of a window. `None` takes inner loops whole. Few-shot
            learners always do, and refuse shorter windows.
        seed: Seed of the perturbations.
        draws: What perturbations are drawn from: `"normal"`, or
            `"rademacher"` for signs, which have less variance.

    Raises:
        ValueError: If an argument is out of range.
    """

    takes_second_derivatives: ClassVar[bool] = False
    differentiates_steps: ClassVar[bool] = False
    differentiates_calls: ClassVar[bool] = False
    draws_random_numbers: ClassVar[bool] = True

    particles: int = 8
    sigma: float = 0.01
    length: int | None = None
    seed: int = dataclasses.field(default=0, kw_only=True)
    draws: str = dataclasses.field(default="normal", kw_only=True)

    def __post_init__(self) -> None:
        check_positive(particles=self.particles)
        check_positive_number(sigma=self.sigma)
        if self.length is not None:
            check_positive(length=self.length)
        check_int64(seed=self.seed)
        check_choice("draws", self.draws, DRAWS)

    def check(self, rule: UpdateRule, steps: int | None = None) -> None:
        """Refuses windows of few-shot tasks; see `MetaGradient.check`.

        Every rule will do, as nothing is differentiated.
        """
        if steps is not None:
            self._require_whole(steps)

    def check_learned_loss(self, loss: keras.Layer) -> None:
        """Accepts every loss; nothing is differentiated."""

    def solve(self, loop: InnerLoop) -> tuple[Carry, Any]:
        """Runs the inner loop; see `MetaGradient.solve`."""
        self._require_whole(loop.steps)
        return loop.as_constant().run()

    def estimate(self, objective: MetaObjective) -> Estimate:
        """Compares perturbed learners; see `MetaGradient.estimate`.

        The loss and the predictions are those of the meta-parameters without
        perturbations.
        """
        loss, predictions = objective.outer_loss()
        theta = [tf.convert_to_tensor(v) for v in objective.variables]
        noise = self.noise(theta, objective.seed(self.seed), objective.tasks)
        losses = objective.task_losses(
            antithetic(theta, noise, self.sigma), 2 * self.particles
        )
        slopes = difference_estimate(losses, noise, self.sigma)
        with tf.GradientTape() as tape:
            penalty = objective.scaled(objective.penalty() / objective.replicas)
        exact = tape.gradient(penalty, list(objective.variables))
        slopes = [objective.scaled(g / objective.replicas) for g in slopes]
        gradients = [
            slope if extra is None else slope + extra
            for slope, extra in zip(slopes, exact, strict=True)
        ]
        return Estimate(gradients, loss, predictions)

    def noise(
        self,
        theta: Sequence[tf.Tensor],
        seed: tf.Tensor,
        tasks: int | tf.Tensor = 1,
    ) -> list[tf.Tensor]:
        """Draws the noise of a window, of variance 1.

        Args:
            theta: Values of the meta-parameters.
            seed: `[2]`, integers.
            tasks: Number of tasks.

        Returns:
            A tensor `[particles * tasks, *shape]` for each meta-parameter.
        """
        return draw_noise(theta, seed, self.particles * tasks, self.draws)

    def begin(
        self,
        start: Callable[[list[tf.Tensor]], Any],
        theta: Sequence[tf.Tensor],
        noise: Sequence[tf.Tensor],
    ) -> Particles:
        """Begins the runs of all tasks.

        Args:
            start: Maps meta-parameters, `[rows, *shape]` each, to the carry
                before the first step, nested tensors `[rows, ...]`.
            theta: Values of the meta-parameters.
            noise: The noise of the first window.
        """
        carry = start(antithetic(theta, noise, self.sigma))
        return Particles(carry, list(self.first_memory(noise)))

    def window(
        self,
        run: Run,
        theta: Sequence[tf.Tensor],
        particles: Particles,
        noise: Sequence[tf.Tensor],
        first: int | tf.Tensor,
        steps: int,
    ) -> Window:
        """Runs a window and estimates the gradient of its loss.

        Args:
            run: Takes the steps of all rows.
            theta: Values of the meta-parameters.
            particles: The runs before the window.
            noise: The noise of the window, as the method `noise` draws it.
            first: Number of the first step.
            steps: How many steps to take.
        """
        now = self.window_noise(particles.noise, noise)
        losses, carry = run(
            antithetic(theta, now.perturbs, self.sigma),
            particles.carry,
            first,
            steps,
        )
        gradients = difference_estimate(losses, now.directions, self.sigma)
        return Window(gradients, Particles(carry, list(now.kept)), losses)

    def begin_runs(
        self, runs: Runs, theta: Sequence[tf.Tensor], seed: tf.Tensor
    ) -> Particles:
        """Begins the runs of all particles; see `MetaGradient.begin_runs`."""
        noise = self.noise(theta, seed, runs.tasks)
        rows = runs.repeated(2 * self.particles)
        return self.begin(rows.start, theta, noise)

    def take_window(
        self,
        runs: Runs,
        theta: Sequence[tf.Tensor],
        memory: Particles,
        first: int | tf.Tensor,
        steps: int,
        seed: tf.Tensor,
    ) -> WindowEstimate:
        """Compares particles in a window; see `MetaGradient.take_window`.

        The losses are those of all particles.
        """
        rows = runs.repeated(2 * self.particles)
        losses = []

        def run(theta, carry, first, steps):
            taken = rows.take(InnerLoop.run, theta, carry, first, steps)
            losses[:] = [taken.losses]
            return taken.values, taken.carry

        noise = self.noise(theta, seed, runs.tasks)
        window = self.window(run, theta, memory, noise, first, steps)
        return WindowEstimate(
            list(map(runs.scaled, window.gradients)),
            window.particles,
            losses[0],
            tf.reduce_mean(window.losses),
        )

    def restart(
        self, particles: Particles, fresh: Particles, ended: tf.Tensor
    ) -> Particles:
        """Replaces runs that have ended.

        Args:
            particles: The runs so far.
            fresh: Runs that `begin` began.
            ended: For each task, whether to replace its runs, `[tasks]`.
        """

        def choose(copies):
            rows = tf.tile(ended, [copies])

            def choose_rows(old, new):
                extra = [1] * (old.shape.rank - 1)
                return tf.where(tf.reshape(rows, [-1, *extra]), new, old)

            return choose_rows

        return Particles(
            keras.tree.map_structure(
                choose(2 * self.particles), particles.carry, fresh.carry
            ),
            keras.tree.map_structure(
                choose(self.particles), particles.noise, fresh.noise
            ),
        )

    @abc.abstractmethod
    def first_memory(self, noise: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
        """Returns what is remembered before the first window.

        Args:
            noise: The noise of the first window.
        """

    @abc.abstractmethod
    def window_noise(
        self, memory: Sequence[tf.Tensor], noise: Sequence[tf.Tensor]
    ) -> WindowNoise:
        """Returns what the noise of a window is used for.

        Args:
            memory: What is remembered of earlier windows.
            noise: The noise drawn for the window.
        """

    def _require_whole(self, steps: int) -> None:
        if self.length is not None and self.length < steps:
            raise ValueError(
                "Few-shot tasks take all their inner steps in every training "
                "step, so `length` of the meta-gradient must be None or at "
                f"least `steps`. Received: steps={steps}, and "
                f"meta_gradient={self}. Use length=None; windows are for "
                "keras_meta.OptimizerLearner and HyperparameterLearner."
            )
