"""The validation loss after training, as a meta-gradient sees it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_meta.inner.inner_loop import InnerLoop
from keras_meta.inner.solver import Carry
from keras_meta.inner.solver import Solver
from keras_meta.inner.training import TrainingProblem
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.meta_gradients.objective import Adaptation


class Trained(NamedTuple):
    """What comes out of training.

    Attributes:
        predictions: Predictions for the validation examples, `[n, ...]`.
        end: The carry after the last step.
        losses: The training losses before each step, `[steps, 1]`.
    """

    predictions: Any
    end: Carry
    losses: tf.Tensor


@dataclasses.dataclass(frozen=True)
class TrainingObjective:
    """Steps of training, and the loss after them; see `MetaObjective`.

    Attributes:
        variables: What is learned.
        solver: The inner loop.
        problem: What it optimizes.
        meta_gradient: How the gradient comes back.
        begin: Maps values of `variables` to the carry before the first step.
        first: Number of the first step.
        steps: How many.
        far: Weights that are no minimum, `[1, *shape]` each, which tell how
            far training has come.
        validate: Maps what makes predictions from the validation inputs to
            the loss and the predictions.
        clock: A number that is another one in each meta-step.
        scale: Returns a value times the optimizer's loss scale.
    """

    variables: Sequence[keras.Variable]
    solver: Solver
    problem: TrainingProblem
    meta_gradient: MetaGradient
    begin: Callable[[Sequence[tf.Tensor]], Carry]
    first: tf.Tensor
    steps: int
    far: Sequence[tf.Tensor]
    validate: Callable[[Callable[[Any], Any]], tuple[tf.Tensor, Any]]
    clock: tf.Tensor
    scale: Callable[[tf.Tensor], tf.Tensor]

    @property
    def replicas(self) -> int:
        """Number of devices, one."""
        return 1

    @property
    def tasks(self) -> int:
        """Number of tasks, one."""
        return 1

    def adapt(self) -> Adaptation:
        """Trains; see `MetaObjective.adapt`."""
        theta = self._theta()
        start = self.begin(theta)
        end, losses = self._run(InnerLoop.run, theta, start)
        return Adaptation(
            self.problem.task_batched.adapted,
            start._replace(params=list(self.far)),
            end,
            losses,
            self.solver.gradient_function(
                self.problem, (), end, self.first + self.steps
            ),
        )

    def outer_loss(
        self, adaptation: Adaptation | None = None
    ) -> tuple[tf.Tensor, Trained]:
        """Returns the loss after training; see `MetaObjective.outer_loss`."""
        theta = self._theta()
        if adaptation is not None:
            return self._loss_of(theta, adaptation.end, adaptation.recorded)
        solve = self.meta_gradient.solve
        end, losses = self._run(solve, theta, self.begin(theta))
        return self._loss_of(theta, end, losses)

    def task_losses(self, theta: Sequence[tf.Tensor], copies: int) -> tf.Tensor:
        """Returns losses of other values; see `MetaObjective.task_losses`."""

        def loss_of_copy(theta):
            return self.window(theta, self.begin(theta))[0]

        return tf.map_fn(
            loss_of_copy, list(theta), fn_output_signature=self.dtype
        )

    def window(
        self, theta: Sequence[tf.Tensor], carry: Carry
    ) -> tuple[tf.Tensor, Carry]:
        """Trains, without a derivative.

        Args:
            theta: Values of the meta-parameters.
            carry: The carry before the first step.

        Returns:
            The loss after the last step, and the carry there.
        """
        end, losses = self._run(InnerLoop.run, theta, carry)
        return self._loss_of(theta, end, losses)[0], end

    @property
    def dtype(self) -> tf.DType:
        """Type of the loss."""
        return tf.as_dtype(self.problem.task_batched.adapted[0].dtype)

    def penalty(self) -> tf.Tensor:
        """Returns 0: regularizers act in training alone."""
        return tf.zeros([])

    def seed(self, number: int) -> tf.Tensor:
        """Returns a seed of the meta-step; see `MetaObjective.seed`."""
        return tf.stack([tf.constant(number, self.clock.dtype), self.clock])

    def scaled(self, value: tf.Tensor) -> tf.Tensor:
        """Returns a value times the optimizer's loss scale."""
        return self.scale(value)

    def _theta(self) -> list[tf.Tensor]:
        return [tf.convert_to_tensor(v.value) for v in self.variables]

    def _run(self, run, theta, carry):
        end, losses = run(
            InnerLoop(
                self.solver,
                self.problem,
                theta,
                (),
                carry,
                self.steps,
                self.first,
            )
        )
        return self.solver.finish(self.problem, theta, end), losses

    def _loss_of(self, theta, end, losses):
        def predict(x):
            return self.problem.predict(theta, x, end.params, end.state)

        with self.problem.scope(theta):
            loss, predictions = self.validate(predict)
        return loss, Trained(predictions, end, losses)
