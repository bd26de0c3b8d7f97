"""Runs of an update rule on drawn instances of a problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.inner.optimization import Instances
from keras_meta.inner.optimization import OptimizationProblem
from keras_meta.inner.optimization import run_with_losses
from keras_meta.inner.solver import Carry
from keras_meta.inner.solver import Solver
from keras_meta.meta_gradients.runs import Taken

# Keeps the logarithm of a loss finite.
_TINY = 1e-10


@dataclasses.dataclass(frozen=True)
class OptimizationRuns:
    """What a windowed meta-gradient is estimated from, see `Runs`.

    Attributes:
        solver: The inner loop, with the rule that learns.
        problem: What it optimizes.
        data: The instances.
        weights: Weights of the losses after the steps 1, 2, ....
        first_losses: Losses before the first step, `[instances]`, if what is
            minimized are logarithms of the ratio to them.
        scaled: Returns a value times the optimizer's loss scale.
    """

    solver: Solver
    problem: OptimizationProblem
    data: Instances
    weights: tf.Tensor
    first_losses: tf.Tensor | None
    scaled: Callable[[tf.Tensor], tf.Tensor]

    @property
    def tasks(self) -> int:
        """Number of instances."""
        return self.data.params[0].shape[0]

    def repeated(self, copies: int) -> OptimizationRuns:
        """Returns runs of copies of the instances; see `Runs`."""

        def repeat(x):
            # All instances share a scalar.
            if x is None or not x.shape.rank:
                return x
            return task_axis.repeat(x, copies)

        data, first_losses = keras.tree.map_structure(
            repeat, (self.data, self.first_losses)
        )
        return dataclasses.replace(
            self,
            problem=dataclasses.replace(self.problem, theta_per_task=True),
            data=data,
            first_losses=first_losses,
        )

    def start(self, theta: Sequence[tf.Tensor]) -> Carry:
        """Returns the carry before the first step."""
        return self.solver.init(self.problem, theta, self.data)

    def resumed(
        self,
        theta: Sequence[tf.Tensor],
        carry: Carry,
        first: int | tf.Tensor,
    ) -> Carry:
        """Returns a carry whose first state has a gradient; see `Runs`."""

        def learned_state():
            state = self.solver.init_rule(self.problem, theta, carry.params)
            return keras.tree.flatten(state)

        state = tf.cond(
            tf.equal(first, 0),
            learned_state,
            lambda: keras.tree.flatten(carry.rule_state),
        )
        state = keras.tree.pack_sequence_as(carry.rule_state, state)
        return carry._replace(rule_state=state)

    def take(
        self,
        run: Callable,
        theta: Sequence[tf.Tensor],
        carry: Carry,
        first: int | tf.Tensor,
        steps: int,
    ) -> Taken:
        """Takes the steps of a window; see `Runs`."""
        carry, losses = self.run(run, theta, carry, first, steps)
        values = self.values(losses[1:])
        part = tf.slice(self.weights, [first], [steps])
        # Evolution strategies learn from differences of these sums, which a
        # GPU might round if they were a product of matrices.
        total = tf.reduce_sum(part[:, tf.newaxis] * values, axis=0)
        return Taken(carry, losses, total)

    def run(
        self,
        run: Callable,
        theta: Sequence[tf.Tensor],
        carry: Carry,
        first: int | tf.Tensor,
        steps: int,
    ) -> tuple[Carry, tf.Tensor]:
        """Takes steps, see `run_with_losses`."""
        return run_with_losses(
            run,
            self.solver,
            self.problem,
            theta,
            self.data,
            carry,
            first,
            steps,
        )

    def values(self, losses: tf.Tensor) -> tf.Tensor:
        """Returns what is minimized, of the shape of `losses`.

        Args:
            losses: `[steps, instances]`.
        """
        if self.first_losses is None:
            return losses
        first = tf.math.log(self.first_losses + _TINY)
        return tf.math.log(losses + _TINY) - first
