"""Choosing a network's operations by gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.architectures.derive import architecture
from keras_meta.architectures.derive import derive
from keras_meta.architectures.mixed_operation import MixedOperation
from keras_meta.architectures.mixed_operation import mixed_operations
from keras_meta.checks import check_choice
from keras_meta.checks import check_number_at_least
from keras_meta.hyperparameters.hyperparameter import Hyperparameter
from keras_meta.inner.solver import Carry
from keras_meta.inner.solver import Solver
from keras_meta.inner.training import TrainingProblem
from keras_meta.learners.arguments import check_model
from keras_meta.meta_gradients.unrolled import Unrolled
from keras_meta.outer.hyperparameter_learner import HyperparameterLearner
from keras_meta.outer.influence import check_direct_influence
from keras_meta.outer.training_objective import Trained
from keras_meta.outer.training_objective import TrainingObjective
from keras_meta.update_rules.gradient_descent import GradientDescent
from keras_meta.update_rules.update_rule import UpdateRule

_STATISTICS = ("batch", "running")


@keras.saving.register_keras_serializable("keras_meta")
class ArchitectureSearch(HyperparameterLearner):
    """Chooses the operations of a network by gradient (DARTS).

    The model has `MixedOperation` layers. A step of `fit` first moves their
    logits `a`, by the compiled optimizer, against the gradient of

        validation_loss(w - xi * grad_w training_loss(w, a), a)

    and then moves the weights `w` by the update rule, from where they were,
    against the gradient of the training loss at the new logits. The virtual
    step by `xi` is only looked at. It makes up for weights that have not
    been trained to their minimum for these logits, and its derivative is
    exact: a product with second derivatives, not a finite difference.

    With `virtual_rate=0` that is the gradient of the validation loss at the
    present weights (first order). It takes about a third of the time, depends
    on no training data, and ends elsewhere: on the quadratic losses of the
    paper's figure 2, at `2 / (1 + 2 xi)`, where 1 is the best.

    `derive` returns the chosen network, to be trained from new weights as any
    Keras model. Validation data choose the network, so keep a test set.

    The logs hold, besides those of a `HyperparameterLearner`:

    - `entropy`, the mean `MixedOperation.entropy` of all choices, 1 at the
      start. If it stays there, what is derived is chosen at random.
    - `skips`, how many choices are a `keras.layers.Identity` at present.
      Skips train fastest, so a search that goes on for too long chooses more
      and more of them. `keras_meta.callbacks.CollapseAlarm` warns of both.

    Choices that several mixed operations share count once.

    What else is a hyperparameter of the model or of its training is learned
    as well; with `virtual_rate=0` only what predictions depend on.

    Args:
        model: A built Keras model with mixed operations, functional or
            sequential if it is to be derived. `fit` trains it.
        update_rule: How the weights are trained, an update rule or a number
            for `GradientDescent` with that rate.
        virtual_rate: The rate `xi` of the virtual step, which is one of
            gradient descent; or `None` for the step that the update rule
            would take, with its rate and its momentum, as in the authors'
            code.
        batch_statistics: What batch normalization uses for the validation
            loss of the logits: `"batch"`, the validation batch's own, as the
            authors do; `"running"`, moving averages. Those may be far off
            while the weights change.
        inner_loss: See `HyperparameterLearner`.
        example_weights: See `HyperparameterLearner`.
        hyperparameters: See `HyperparameterLearner`.
        seed: Seed of the order of examples.
        name: Name of the search.

    Raises:
        ValueError: If an argument is out of range, the model has no mixed
            operation, or the update rule learns and the virtual step does not
            take it. See also `HyperparameterLearner`.

    Example:
    >>> import keras_meta
    >>> x = keras.Input([4])
    >>> layers = [
    ...     keras.layers.Identity(name="skip"),
    ...     keras.layers.Dense(4, "tanh", name="dense"),
    ... ]
    >>> mixed = keras_meta.MixedOperation(layers, name="choice")
    >>> model = keras.Model(x, keras.layers.Dense(1)(mixed(x)))
    >>> search = keras_meta.ArchitectureSearch(model, 0.1)
    >>> search.compile(keras.optimizers.Adam(0.01), "mse")
    >>> # ... search.fit(x, y, validation_data=(x_val, y_val)), and then:
    >>> search.architecture
    {'choice': 'skip'}
    >>> derived = search.derive()

    References:
        - [Liu et al., 2019](https://arxiv.org/abs/1806.09055).
        - [Li and Talwalkar, 2019](https://arxiv.org/abs/1902.07638), for how
          close random choices come.
    """

    def __init__(
        self,
        model: keras.Model,
        update_rule: UpdateRule | float = 0.01,
        *,
        virtual_rate: float | None = None,
        batch_statistics: str = "batch",
        inner_loss: str | keras.losses.Loss | Callable | None = None,
        example_weights: Any = None,
        hyperparameters: Sequence[Hyperparameter | keras.Variable] = (),
        seed: int = 0,
        name: str | None = None,
    ):
        if virtual_rate is not None:
            check_number_at_least(0, virtual_rate=virtual_rate)
        check_choice("batch_statistics", batch_statistics, _STATISTICS)
        check_model(model)
        if not mixed_operations(model):
            raise ValueError(
                "`model` must have a keras_meta.MixedOperation. Received: "
                f"model={model.name!r}, in which there is nothing to choose. "
                "For other hyperparameters, use "
                "keras_meta.HyperparameterLearner."
            )
        super().__init__(
            model,
            update_rule,
            steps=1,
            meta_gradient=Unrolled("off"),
            start="kept",
            inner_loss=inner_loss,
            example_weights=example_weights,
            hyperparameters=hyperparameters,
            seed=seed,
            name=name,
        )
        if virtual_rate is not None and self.update_rule.trainable_variables:
            raise ValueError(
                "What the update rule learns, it learns through the virtual "
                "step, which must be its own. Received: virtual_rate="
                f"{virtual_rate}, and update_rule="
                f"{type(self.update_rule).__name__}, which learns. Use "
                "virtual_rate=None."
            )
        self.virtual_rate = virtual_rate
        self.batch_statistics = batch_statistics
        self._virtual_rule = GradientDescent(virtual_rate or 0.0)
        self._virtual_rule.ensure_attached(self._task_batched.adapted, 1)

    @property
    def architecture(self) -> dict[str, str]:
        """What `derive` would choose: names of candidates, by mixed operation.

        See `MixedOperation.strongest`.
        """
        return architecture(self.model)

    def derive(
        self,
        choices: Mapping[str, str] | None = None,
        *,
        keep_weights: bool = False,
    ) -> keras.Model:
        """Returns the chosen network, a plain Keras model.

        Args:
            choices: See `keras_meta.derive`.
            keep_weights: See `keras_meta.derive`.
        """
        return derive(self.model, choices, keep_weights=keep_weights)

    @property
    def choices(self) -> list[MixedOperation]:
        """A mixed operation for each choice, which several may share."""
        mixed = mixed_operations(self.model)
        return [*{id(m.logits): m for m in reversed(mixed)}.values()][::-1]

    def _problem(self, data: dict[str, Any]) -> TrainingProblem:
        return dataclasses.replace(
            super()._problem(data), statistics=self.batch_statistics
        )

    def _objective(self, data: dict[str, Any]) -> TrainingObjective:
        objective = super()._objective(data)
        if self.virtual_rate is None:
            return objective
        solver = Solver(self._virtual_rule)
        problem = objective.problem

        def begin(theta):
            carry = objective.begin(theta)
            return carry._replace(
                rule_state=solver.init_rule(problem, theta, carry.params)
            )

        return dataclasses.replace(
            objective,
            solver=solver,
            begin=begin,
            steps=1 if self.virtual_rate else 0,
        )

    def _check_objective(self, objective: TrainingObjective) -> None:
        if objective.steps:
            super()._check_objective(objective)
            return
        check_direct_influence(
            lambda: objective.outer_loss()[0],
            objective.variables,
            self._learned.names,
            "With virtual_rate=0, hyperparameters learn from the validation "
            "loss at the present weights, which must depend on every one. It "
            "does not on {}. Use virtual_rate=None, or set trainable=False.",
        )

    def _train(
        self, objective: TrainingObjective, trained: Trained
    ) -> tuple[Carry, tf.Tensor]:
        """Takes a step from where the weights were; see the base class."""
        problem = objective.problem
        theta = [tf.convert_to_tensor(v.value) for v in objective.variables]
        start = self._begin(problem, theta, objective.clock)
        end, losses = self._solver.run(
            problem, theta, (), start, self.steps, first=objective.first
        )
        self._health.report_inner_losses(losses, objective.first)
        return self._solver.finish(problem, theta, end), losses

    def train_step(self, data: dict[str, Any]) -> dict[str, Any]:
        """Moves the logits, and then the weights."""
        logs = super().train_step(data)
        choices = self.choices
        entropy = tf.add_n([c.entropy for c in choices]) / len(choices)
        return {**logs, "entropy": entropy, "skips": _skips(choices)}

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = super().get_config()
        for fixed in ("steps", "meta_gradient", "start"):
            del config[fixed]
        return {
            **config,
            "virtual_rate": self.virtual_rate,
            "batch_statistics": self.batch_statistics,
        }


def _skips(choices: Sequence[MixedOperation]) -> tf.Tensor:
    """Returns how many choices are skip connections, a scalar."""
    return tf.add_n(
        [
            tf.gather(
                [
                    float(isinstance(c, keras.layers.Identity))
                    for c in choice.candidates
                ],
                choice.strongest(),
            )
            for choice in choices
        ]
    )
