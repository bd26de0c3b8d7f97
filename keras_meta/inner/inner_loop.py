"""An inner loop, before it is run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.inner.problem import Derivatives
from keras_meta.inner.problem import InnerProblem
from keras_meta.inner.solver import Carry
from keras_meta.inner.solver import Record
from keras_meta.inner.solver import Solver
from keras_meta.inner.solver import losses_only


@dataclasses.dataclass(frozen=True)
class InnerLoop:
    """Steps that are to be taken, and all that they depend on.

    Attributes:
        solver: Takes the steps.
        problem: What they optimize.
        theta: Values of the meta-parameters.
        data: What belongs to the tasks, nested tensors.
        carry: The carry before the first step.
        steps: How many steps to take.
        first: Number of the first one.
        record: Says what to return of each step.
    """

    solver: Solver
    problem: InnerProblem
    theta: Sequence[tf.Tensor]
    data: Any
    carry: Carry
    steps: int
    first: int | tf.Tensor = 0
    record: Record = losses_only

    def as_constant(self) -> InnerLoop:
        """Returns the same loop, whose result has no derivative."""
        return dataclasses.replace(
            self,
            theta=list(map(tf.stop_gradient, self.theta)),
            carry=keras.tree.map_structure(tf.stop_gradient, self.carry),
        )

    def run(
        self,
        derivatives: Derivatives = Derivatives.NONE,
        segment: int | None = None,
    ) -> tuple[Carry, Any]:
        """Takes the steps, see `Solver.run`.

        Args:
            derivatives: Which derivatives of the result are taken.
            segment: Steps of a segment that is computed twice to save
                memory, or `None` to keep all that the gradient needs.

        Returns:
            The carry after the last step, and what was recorded, stacked
            along a new first axis of size `steps` (`None` without steps).
        """
        return self.solver.run(
            self.problem,
            self.theta,
            self.data,
            self.carry,
            self.steps,
            first=self.first,
            derivatives=derivatives,
            segment=segment,
            record=self.record,
        )
