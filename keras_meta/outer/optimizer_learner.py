"""Meta-training of an update rule, as a Keras model."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_meta._keras import model_supports_jit
from keras_meta.checks import check_at_least
from keras_meta.checks import check_bool
from keras_meta.checks import check_choice
from keras_meta.checks import check_positive
from keras_meta.checks import describe
from keras_meta.checks import is_whole
from keras_meta.execution.endless import refuses_endless
from keras_meta.execution.health import Failure
from keras_meta.execution.health import Health
from keras_meta.execution.health import can_learn_from
from keras_meta.learners.arguments import as_step_weights
from keras_meta.outer.optimization import Optimization
from keras_meta.outer.optimization import Run
from keras_meta.outer.optimizer_arguments import as_problems
from keras_meta.outer.optimizer_arguments import check_batch
from keras_meta.outer.optimizer_arguments import check_no_loss
from keras_meta.problems.problem import Problem
from keras_meta.update_rules.update_rule import UpdateRule
from keras_meta.update_rules.update_rule import check_rule

# Keeps the logarithm of a loss finite.
_TINY = 1e-10
_AT_THE_START = (
    "No step has been taken, so the problem's data or its first parameters "
    "contain NaN or infinity."
)
_ON_THE_WAY = (
    "The update rule makes the problem diverge. Lower its output_scale or the "
    "learning rate of `compile`'s optimizer, clip its gradients, or begin with "
    "fewer steps."
)


class OptimizerLearner(keras.Model):
    """Trains an update rule to optimize: it learns from whole optimizations.

    A step of `fit` optimizes a batch of problem instances from the
    beginning. It goes in windows of `truncation` steps; after each the
    meta-gradient goes back through the window and the rule learns, while the
    parameters and the rule's state go on.

    The meta-loss is `sum_t w_t L(theta_t)` over the steps of a window, the
    mean over instances. The logs hold its mean over all steps (`loss`) and
    the loss after the last step (`final_loss`).

    It runs on one device, and is not saved as a whole; its rule is, by
    `LearnedOptimizer.save_to_preset`.

    Args:
        rule: The update rule; it needs weights to learn.
        problem: The family of problems, or several. Several take turns,
            batch by batch.
        steps: Steps of an optimization in training.
        truncation: Steps of a window, which divide `steps`; `None` for all.
        evaluation_steps: Steps in `evaluate`; by default `steps`.
        step_weights: The `w_t` of the losses after the steps 1 to `steps`;
            `None` for 1 each. In `evaluate`, which may take other numbers of
            steps, all count alike.
        objective: What is meant by `L`: `"loss"`, or `"log_ratio"`, the
            logarithm of the loss over that before the first step, in which
            problems of all sizes count alike.
        second_order: Whether gradients that the rule sees are differentiated
            as functions of the parameters. They count as constants in
            Andrychowicz et al. Then what later steps correct counts against
            a step too, so rules meta-trained on long runs learn rates that
            die away; these want `second_order=True` and short windows. A
            rule with attention needs it.
        tolerated_divergences: How many batches in a row may have a loss, or
            a meta-gradient, that is not finite before `fit` and `evaluate`
            raise. The rule learns nothing from such a batch from there on,
            nor from those after it in the same one of several
            `steps_per_execution`; `fit` leaves them out of the mean losses,
            which are infinite if nothing is left, and logs their share
            (`diverged`), in `evaluate` the losses are infinite.
        name: Name of the model.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If `rule` is not an `UpdateRule`, or `problem` is not a
            `Problem` or a list of them.
        FloatingPointError: In `fit` and `evaluate`, if problems diverge.

    Example:
    >>> import keras_meta
    >>> learner = OptimizerLearner(
    ...     keras_meta.CoordinatewiseLSTM(preprocessing=None, seed=1),
    ...     keras_meta.problems.Quadratic(),
    ...     steps=4,
    ...     truncation=2,
    ... )
    >>> learner.compile(keras.optimizers.Adam(1e-3))
    >>> batches = keras_meta.problems.batches(8, num_batches=2)
    >>> history = learner.fit(batches, verbose=0)
    >>> sorted(history.history)
    ['final_loss', 'loss']

    References:
        - [Andrychowicz et al., 2016](https://arxiv.org/abs/1606.04474),
          section 2.
        - [Wichrowska et al., 2017](https://arxiv.org/abs/1703.04813),
          section 3.3, for the logarithm.
    """

    def __init__(
        self,
        rule: UpdateRule,
        problem: Problem | Sequence[Problem],
        steps: int = 100,
        *,
        truncation: int | None = 20,
        evaluation_steps: int | None = None,
        step_weights: Sequence[float] | None = None,
        objective: str = "loss",
        second_order: bool = False,
        tolerated_divergences: int = 0,
        name: str | None = None,
    ):
        # Keras would round what the rule is given to half precision.
        super().__init__(name=name, dtype=keras.config.floatx(), autocast=False)
        check_rule(rule)
        problems = as_problems(problem)
        truncation = steps if truncation is None else truncation
        if evaluation_steps is None:
            evaluation_steps = steps
        check_positive(
            steps=steps,
            truncation=truncation,
            evaluation_steps=evaluation_steps,
        )
        check_at_least(0, tolerated_divergences=tolerated_divergences)
        check_bool(second_order=second_order)
        check_choice("objective", objective, ("loss", "log_ratio"))
        if len(problems) > 1 and not rule.fits_any_model:
            raise ValueError(
                "A rule that learns something of each tensor has one problem. "
                f"Received: rule={type(rule).__name__} and {len(problems)} "
                "problems. Pass keras_meta.CoordinatewiseLSTM(), for instance."
            )
        if rule.attends and not second_order:
            raise ValueError(
                "A rule learns where to take gradients by differentiating "
                "them. Received: a rule with attention=True, and "
                "second_order=False. Pass second_order=True."
            )
        rule.ensure_attached(problems[0].variables, steps)
        if not rule.trainable_variables:
            raise ValueError(
                "`rule` must have weights to learn. Received: "
                f"rule={type(rule).__name__}. Pass "
                "keras_meta.CoordinatewiseLSTM(), for instance."
            )
        self.rule = rule
        self.problems = problems
        self.truncation = truncation
        self.evaluation_steps = evaluation_steps
        self.objective = objective
        self.second_order = bool(second_order)
        self.tolerated_divergences = tolerated_divergences
        if step_weights is None:
            step_weights = np.ones(steps)
        self._step_weights = as_step_weights(step_weights, steps)
        # TensorFlow keeps int32 variables off a GPU, where XLA would not
        # reach them.
        self._windows = tf.Variable(
            0, trainable=False, dtype=tf.int64, name="windows"
        )
        self.steps = steps
        self._loss = _MeanOfSome("loss")
        self._final_loss = _MeanOfSome("final_loss")
        self._diverged = keras.metrics.Mean("diverged")
        self._health = Health()
        self.built = True

    @property
    def steps(self) -> int:
        """Steps of an optimization in training, a multiple of a window's.

        It may be changed between epochs, up to the first value.
        """
        return self._steps

    @steps.setter
    def steps(self, steps: int) -> None:
        most = len(self._step_weights)
        fits = is_whole(steps) and 0 < steps <= most
        if not fits or steps % self.truncation:
            raise ValueError(
                f"`steps` must be a multiple of truncation={self.truncation} "
                f"and at most {most}. Received: steps={describe(steps)}. "
                "Windows have `truncation` steps; with truncation=None there "
                "is one."
            )
        if not self._step_weights[:steps].any():
            raise ValueError(
                "`step_weights` must not be zero for all steps. Received: "
                f"weights of which the first {steps} are, for steps={steps}."
            )
        self._steps = steps
        self._windows.assign(steps // self.truncation)

    fit = refuses_endless(keras.Model.fit)
    evaluate = refuses_endless(keras.Model.evaluate)

    def compile(self, optimizer="rmsprop", loss=None, **kwargs):
        """Sets what meta-trains the rule.

        Args:
            optimizer: A Keras optimizer or its name.
            loss: Only `None`; the loss is the problems'.
            **kwargs: Further arguments of `keras.Model.compile`, such as
                `jit_compile`; no metrics, as these are the problems'.

        Raises:
            ValueError: If there is a loss or a metric.
        """
        check_no_loss({"loss": loss, **kwargs})
        super().compile(optimizer, **kwargs)

    def call(self, inputs, training=None):
        """Refuses, as there is nothing to predict."""
        raise NotImplementedError(
            "An OptimizerLearner optimizes problems and predicts nothing. Use "
            "`evaluate`, or compile a model with its rule: optimizer="
            "keras_meta.optimizers.LearnedOptimizer(learner.rule)."
        )

    @property
    def metrics(self) -> list[keras.Metric]:
        """The mean losses, which start anew with each epoch."""
        if self.tolerated_divergences:
            return [self._loss, self._final_loss, self._diverged]
        return [self._loss, self._final_loss]

    def train_step(self, data):
        """Optimizes a batch of instances, and learns after each window."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if replicas > 1:
            raise ValueError(
                "An OptimizerLearner learns after each window, on one device. "
                f"Received: a strategy of {replicas} replicas. Leave its "
                "scope; more instances of a batch keep one device busy."
            )
        losses = self._for_problem(data, self._train_on)
        return self._log(losses, 0, counts=self._health.is_ok)

    def test_step(self, data):
        """Optimizes a batch of instances."""
        losses = self._for_problem(data, self._evaluate_on)
        # A rule that diverges must not look good for the rest.
        return self._log(losses, math.inf)

    def _log(self, losses, if_diverged: float, counts=None):
        """Adds a batch to the metrics; returns them all.

        Args:
            losses: The mean loss and the one after the last step.
            if_diverged: What stands for both if the batch diverged.
            counts: Whether the batch counts; `None` if it does anyway.
        """
        is_ok = self._health.is_ok
        self._diverged.update_state(tf.logical_not(is_ok))
        trackers = self._loss, self._final_loss
        for tracker, loss in zip(trackers, losses, strict=True):
            tracker.update_state(tf.where(is_ok, loss, if_diverged), counts)
        return {m.name: m.result() for m in self.metrics}

    def _for_problem(self, data, function):
        """Calls a function with the problem whose turn it is."""
        x = check_batch(data)
        turn = x["index"][0] // x["index"].shape[0] % len(self.problems)
        branches = [functools.partial(function, p, x) for p in self.problems]
        if len(branches) == 1:
            return branches[0]()
        return tf.switch_case(tf.cast(turn, tf.int32), branches)

    def _begin(self, problem: Problem, x):
        params, data = problem.draw(
            x["seed"][0], x["index"][0], x["index"].shape[0]
        )
        optimization = Optimization(
            problem, self.rule, self.second_order, bool(self.jit_compile)
        )
        run = optimization.start(params)
        losses, _ = optimization.evaluate(run, data, 0)
        return optimization, run, data, losses

    def _train_on(self, problem: Problem, x):
        optimization, start, data, first_losses = self._begin(problem, x)
        weights = tf.constant(self._step_weights, first_losses.dtype)
        windows = tf.cast(self._windows.read_value(), tf.int32)

        def window(number, flat, loss, _):
            run = keras.tree.pack_sequence_as(start, flat)
            first = number * self.truncation
            with tf.GradientTape() as tape:
                run, losses = optimization.take_steps(
                    self._begun(run, number), data, first, self.truncation
                )
                values = self._values(losses[1:], first_losses)
                part = tf.slice(weights, [first], [self.truncation])
                window_loss = tf.tensordot(part, values, axes=1)
                scaled = self.optimizer.scale_loss(window_loss)
            self._health.report_inner_losses(losses, first)
            self._learn(tape, scaled, first)
            final_loss = tf.reduce_mean(losses[-1])
            flat = keras.tree.flatten(run)
            return number + 1, flat, loss + window_loss, final_loss

        zero = tf.zeros([], first_losses.dtype)
        _, _, loss, final_loss = tf.while_loop(
            lambda number, *_: number < windows,
            window,
            (tf.zeros([], tf.int32), keras.tree.flatten(start), zero, zero),
        )
        sums = tf.cumsum(weights)
        return loss / sums[windows * self.truncation - 1], final_loss

    def _begun(self, run: Run, number: tf.Tensor) -> Run:
        """Returns a run whose first state has a gradient, if it is learned."""

        def learned_state():
            return keras.tree.flatten(self.rule.init_state(run.params))

        state = tf.cond(
            tf.equal(number, 0),
            learned_state,
            lambda: keras.tree.flatten(run.rule_state),
        )
        state = keras.tree.pack_sequence_as(run.rule_state, state)
        return Run(run.params, state)

    def _evaluate_on(self, problem: Problem, x):
        optimization, run, data, first_losses = self._begin(problem, x)
        _, losses = optimization.take_steps(run, data, 0, self.evaluation_steps)
        self._health.report_inner_losses(losses)
        loss = tf.reduce_mean(self._values(losses[1:], first_losses))
        self._health.report_outer(tf.math.is_finite(loss))
        return loss, tf.reduce_mean(losses[-1])

    def _values(self, losses: tf.Tensor, first: tf.Tensor) -> tf.Tensor:
        """Returns the mean over instances of what is minimized, `[steps]`.

        Args:
            losses: `[steps, instances]`.
            first: Losses before the first step, `[instances]`.
        """
        if self.objective == "log_ratio":
            losses = tf.math.log(losses + _TINY) - tf.math.log(first + _TINY)
        return tf.reduce_mean(losses, axis=1)

    def _learn(
        self, tape: tf.GradientTape, loss: tf.Tensor, step: tf.Tensor
    ) -> None:
        """Learns from a window, unless something in it is not finite.

        Args:
            tape: The tape of the window.
            loss: What to lower.
            step: The window's first step.
        """
        variables = self.rule.trainable_variables
        gradients = tape.gradient(
            loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        self._health.report_outer(
            can_learn_from(loss, gradients, self.optimizer), step
        )

        def apply():
            self.optimizer.apply_gradients(
                zip(gradients, variables, strict=True)
            )
            return True

        # Momentum would move the weights though the gradients be zero.
        tf.cond(self._health.is_ok, apply, lambda: False)

    def _resolve_auto_jit_compile(self) -> bool:
        problems = all(problem.supports_jit for problem in self.problems)
        return model_supports_jit(self) and problems

    def make_train_function(self, force: bool = False):
        """Builds the training step, which stops on what went wrong."""
        if self.train_function is None or force:
            if not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)
            super().make_train_function(force)
            self.train_function = self._checked(self.train_function)
        return self.train_function

    def make_test_function(self, force: bool = False):
        """Builds the evaluation step, which stops on what went wrong."""
        if self.test_function is None or force:
            super().make_test_function(force)
            self.test_function = self._checked(self.test_function)
        return self.test_function

    def _checked(self, function):
        in_a_row = 0

        def call_and_check(iterator):
            nonlocal in_a_row
            logs = function(iterator)
            failure = self._health.take()
            in_a_row = 0 if failure is None else in_a_row + 1
            if in_a_row > self.tolerated_divergences:
                in_a_row = 0
                raise FloatingPointError(
                    f"{_describe(failure, self.objective)} The rule has "
                    "learned nothing since. To go on with the next batch, "
                    "pass tolerated_divergences=1 or more."
                )
            return logs

        return call_and_check

    def get_config(self):
        """Refuses, as problems hold data."""
        raise NotImplementedError(
            "An OptimizerLearner is not saved as a whole, as its problems "
            "hold data. Save the rule: keras_meta.optimizers.LearnedOptimizer("
            "learner.rule).save_to_preset(...), or `learner.save_weights`; "
            "ModelCheckpoint needs save_weights_only=True."
        )


def _describe(failure: Failure, objective: str) -> str:
    if not failure.is_outer:
        hint = _AT_THE_START if failure.step == 0 else _ON_THE_WAY
        return (
            f"The loss of instance {failure.task} in the batch is not finite "
            f"at optimization step {failure.step}. {hint}"
        )
    hint = (
        "Lower `truncation`; if losses can be negative, use objective='loss'."
        if objective == "log_ratio"
        else "Lower `truncation`."
    )
    return (
        "The meta-loss or its gradient is not finite in the window from "
        f"optimization step {failure.step} on, though every loss is. {hint}"
    )


class _MeanOfSome(keras.metrics.Mean):
    """A mean that is infinite, which is no good loss, where nothing counts."""

    def result(self):
        return tf.where(self.count > 0, super().result(), math.inf)
