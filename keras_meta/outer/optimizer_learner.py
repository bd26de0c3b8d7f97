"""Meta-training of an update rule, as a Keras model."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_meta._keras import model_supports_jit
from keras_meta._keras import step_counter
from keras_meta.checks import check_at_least
from keras_meta.checks import check_choice
from keras_meta.checks import check_positive
from keras_meta.checks import describe
from keras_meta.checks import is_whole
from keras_meta.execution.endless import refuses_endless
from keras_meta.execution.health import Health
from keras_meta.execution.not_finite import can_learn_from
from keras_meta.inner.inner_loop import InnerLoop
from keras_meta.inner.optimization import Instances
from keras_meta.inner.optimization import OptimizationProblem
from keras_meta.inner.solver import Solver
from keras_meta.learners.arguments import as_step_weights
from keras_meta.meta_gradients.first_order import FirstOrder
from keras_meta.meta_gradients.get import as_meta_gradient
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.meta_gradients.runs import WindowEstimate
from keras_meta.meta_gradients.truncated import Truncated
from keras_meta.outer.divergence import stops_on_divergence
from keras_meta.outer.kept import Kept
from keras_meta.outer.kept_runs import Group
from keras_meta.outer.kept_runs import GroupWindow
from keras_meta.outer.kept_runs import KeptRuns
from keras_meta.outer.kept_runs import mean_gradients
from keras_meta.outer.kept_runs import outcome
from keras_meta.outer.kept_runs import take_windows
from keras_meta.outer.optimization_runs import OptimizationRuns
from keras_meta.outer.optimizer_arguments import as_problems
from keras_meta.outer.optimizer_arguments import attach_learned_rule
from keras_meta.outer.optimizer_arguments import check_batch
from keras_meta.outer.optimizer_arguments import check_kept
from keras_meta.outer.optimizer_arguments import check_kept_batch
from keras_meta.outer.optimizer_arguments import check_learns_rules
from keras_meta.outer.optimizer_arguments import check_no_loss
from keras_meta.outer.optimizer_metrics import MeanOfSome
from keras_meta.outer.optimizer_metrics import Outcome
from keras_meta.outer.problem_files import load_problems
from keras_meta.outer.problem_files import save_problems
from keras_meta.problems.problem import Problem
from keras_meta.update_rules.update_rule import UpdateRule
from keras_meta.update_rules.update_rule import check_rule

_DEFAULT_META_GRADIENT = Truncated(20, FirstOrder())


@keras.saving.register_keras_serializable("keras_meta")
class OptimizerLearner(keras.Model):
    """Trains an update rule to optimize: it learns from whole optimizations.

    A step of `fit` optimizes a batch of problem instances from the
    beginning. With a windowed meta-gradient the rule learns after each
    window, while the parameters and the rule's state go on. With
    `start=keras_meta.Kept(...)` a step of `fit` takes one window of runs that
    go on from step to step.

    The meta-loss is `sum_t w_t L(theta_t)` over the steps of a window, the
    mean over instances. The logs hold its mean over all steps (`loss`) and
    the loss after the last step of a run (`final_loss`), or of a window if
    runs are kept.

    A meta-gradient must reach the rule. `Unrolled`, `FirstOrder` and the
    evolution strategies take whole runs, or windows of them as `Truncated(
    length, ...)` and `PersistentES(..., length=...)`; a custom `MetaGradient`
    works too. `Displacement` and `Implicit` are refused: they look at where a
    run ends, not at how the rule got there.

    It is saved and loaded as any Keras model, with its problems, their data
    and runs that are kept, and training goes on exactly. A custom problem
    needs `get_config`, see `Problem`; without it, use `save_weights`, which
    saves what is learned. `LearnedOptimizer(learner.rule).save_to_preset`
    saves the rule alone. It runs on one device.

    Args:
        rule: The update rule; it needs weights to learn.
        problem: The family of problems, or several. Several take turns,
            batch by batch.
        steps: Steps of an optimization in training.
        meta_gradient: How the gradient comes back through a run: a
            `keras_meta.MetaGradient` or a name. By default it goes back
            through windows of 20 steps, and takes the gradients that the
            rule sees as constants, as in Andrychowicz et al. Then what later
            steps correct counts against a step too, so rules meta-trained on
            long runs learn rates that die away; these want
            `Truncated(20, Unrolled())`. A rule with attention needs it.
            The steps of a window divide `steps`.
        start: Where a step of `fit` begins: `"drawn"`, at new instances, or
            `keras_meta.Kept(instances, groups)`, where the step before ended.
            `evaluate` always begins at new instances.
        evaluation_steps: Steps in `evaluate`; by default `steps`.
        step_weights: The `w_t` of the losses after the steps 1 to `steps`;
            by default all are 1. In `evaluate`, which may take another number
            of steps, all steps count equally.
        objective: The `L` of the meta-loss: `"loss"`, or `"log_ratio"`, the
            logarithm of the loss over that before the first step, in which
            problems of all sizes count equally.
        tolerated_divergences: How many batches in a row may diverge, that is,
            have a loss or a meta-gradient that is not finite, before `fit`
            and `evaluate` raise. The rule learns nothing from the rest of
            such a batch, nor from later batches of the same execution (see
            `steps_per_execution`). `fit` leaves these batches out of the mean
            losses, which are infinite if none is left, and logs their share
            (`diverged`). In `evaluate`, their losses are infinite. With kept
            runs, only the group that diverges is left out, and begins anew.
        name: Name of the model.

    Raises:
        ValueError: If an argument is out of range.
        TypeError: If `rule` is not an `UpdateRule`, `problem` is not a
            `Problem` or a list of them, or `meta_gradient` is not a
            `MetaGradient` or a name.
        FloatingPointError: In `fit` and `evaluate`, if problems diverge.

    Example:
    >>> import keras_meta
    >>> learner = OptimizerLearner(
    ...     keras_meta.Momentum(0.1, learn="scalar"),
    ...     keras_meta.problems.Quadratic(),
    ...     steps=4,
    ...     meta_gradient=keras_meta.Truncated(2),
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
        meta_gradient: MetaGradient | str = _DEFAULT_META_GRADIENT,
        start: Kept | str = "drawn",
        evaluation_steps: int | None = None,
        step_weights: Sequence[float] | None = None,
        objective: str = "loss",
        tolerated_divergences: int = 0,
        name: str | None = None,
    ):
        # Keras would round the rule's inputs to half precision.
        super().__init__(name=name, dtype=keras.config.floatx(), autocast=False)
        check_rule(rule)
        problems = as_problems(problem)
        if evaluation_steps is None:
            evaluation_steps = steps
        check_positive(steps=steps, evaluation_steps=evaluation_steps)
        check_at_least(0, tolerated_divergences=tolerated_divergences)
        check_choice("objective", objective, ("loss", "log_ratio"))
        attach_learned_rule(rule, problems, steps)
        self.rule = rule
        self.problems = problems
        self.evaluation_steps = evaluation_steps
        self.objective = objective
        self.tolerated_divergences = tolerated_divergences
        if step_weights is None:
            step_weights = np.ones(steps)
        self._step_weights = as_step_weights(step_weights, steps)
        # TensorFlow keeps int32 variables off a GPU, where XLA would not
        # reach them.
        self._windows = tf.Variable(
            0, trainable=False, dtype=tf.int64, name="windows"
        )
        self._meta_gradient = as_meta_gradient(meta_gradient)
        check_learns_rules(self._meta_gradient)
        self._meta_gradient.check(rule)
        self.steps = steps
        check_kept(start, problems, self._meta_gradient, steps)
        self.start = start
        self._kept = None
        if isinstance(start, Kept):
            like = self._remembered(start.group_size)
            self._kept = KeptRuns.make(start, like, self.add_weight)
        self._loss = MeanOfSome("loss")
        self._final_loss = MeanOfSome("final_loss")
        self._diverged = keras.metrics.Mean("diverged")
        self._health = Health()
        self.built = True

    @property
    def meta_gradient(self) -> MetaGradient:
        """How the gradient comes back through a run."""
        return self._meta_gradient

    @property
    def _length(self) -> int:
        """Steps of a window."""
        most = len(self._step_weights)
        return min(self.meta_gradient.length or most, most)

    @property
    def steps(self) -> int:
        """Steps of an optimization in training, a multiple of a window's.

        It may be changed between epochs, up to its initial value.
        """
        return self._steps

    @steps.setter
    def steps(self, steps: int) -> None:
        most = len(self._step_weights)
        fits = is_whole(steps) and 0 < steps <= most
        if not fits or steps % self._length:
            raise ValueError(
                f"`steps` must be a multiple of {self._length}, the steps of a "
                f"window of {self.meta_gradient}, and at most {most}. "
                f"Received: steps={describe(steps)}."
            )
        if not self._step_weights[:steps].any():
            raise ValueError(
                "`step_weights` must not be zero for all steps. Received: "
                f"weights whose first {steps} are, for steps={steps}."
            )
        self._steps = steps
        self._windows.assign(steps // self._length)

    fit = refuses_endless(keras.Model.fit)
    evaluate = refuses_endless(keras.Model.evaluate)

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer = "rmsprop",
        loss: None = None,
        **kwargs: Any,
    ) -> None:
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

    def call(self, inputs: Any, training: bool | None = None) -> Any:
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

    def train_step(self, data: Any) -> dict[str, Any]:
        """Learns after each window of a batch, or after one of kept runs."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if replicas > 1:
            raise ValueError(
                "An OptimizerLearner learns after each window, on one device. "
                f"Received: a strategy of {replicas} replicas. Leave its "
                "scope; more instances of a batch keep one device busy."
            )
        if self._kept is not None:
            return self._log(self._train_on_kept(self._kept, data))
        loss, final_loss = self._for_problem(data, self._train_on)
        is_ok = self._health.is_ok
        return self._log(
            Outcome(
                tf.where(is_ok, loss, 0.0),
                tf.where(is_ok, final_loss, 0.0),
                is_ok,
                loss_counts=is_ok,
                final_counts=is_ok,
            )
        )

    def test_step(self, data: Any) -> dict[str, Any]:
        """Optimizes a batch of instances."""
        loss, final_loss = self._for_problem(data, self._evaluate_on)
        is_ok = self._health.is_ok
        # A rule that diverges must not look good by the other batches.
        return self._log(
            Outcome(
                tf.where(is_ok, loss, math.inf),
                tf.where(is_ok, final_loss, math.inf),
                is_ok,
            )
        )

    def _log(self, outcome: Outcome) -> dict[str, Any]:
        """Adds a batch to the metrics; returns them all."""
        self._diverged.update_state(tf.logical_not(outcome.is_ok))
        self._loss.update_state(outcome.loss, outcome.loss_counts)
        self._final_loss.update_state(outcome.final_loss, outcome.final_counts)
        return {m.name: m.result() for m in self.metrics}

    def _for_problem(self, data: Any, function: Callable) -> Any:
        """Calls a function with the problem whose turn it is."""
        x = check_batch(data)
        turn = x["index"][0] // x["index"].shape[0] % len(self.problems)
        branches = [functools.partial(function, p, x) for p in self.problems]
        if len(branches) == 1:
            return branches[0]()
        return tf.switch_case(tf.cast(turn, tf.int32), branches)

    def _begin(
        self, problem: Problem, x: dict[str, tf.Tensor]
    ) -> OptimizationRuns:
        """Returns runs of a batch of instances."""
        seed, index = x["seed"], x["index"]
        return self._runs(problem, seed[0], index[0], index.shape[0])

    def _runs(
        self,
        problem: Problem,
        seed: tf.Tensor,
        index: tf.Tensor,
        instances: int,
    ) -> OptimizationRuns:
        """Returns runs of instances; see `Problem.draw`."""
        params, data = problem.draw(seed, index, instances)
        self.rule.ensure_attached(problem.variables)
        inner = self._inner(problem, xla=bool(self.jit_compile))
        drawn = Instances(params, data)
        first_losses, _ = inner.loss((), drawn, params, [], step=0)
        is_ratio = self.objective == "log_ratio"
        return OptimizationRuns(
            Solver(self.rule),
            inner,
            drawn,
            tf.constant(self._step_weights, first_losses.dtype),
            first_losses if is_ratio else None,
            self.optimizer.scale_loss,
        )

    def _inner(self, problem: Problem, xla: bool) -> OptimizationProblem:
        variables = self.rule.trainable_variables
        return OptimizationProblem(
            problem=problem, variables=variables, xla=xla
        )

    def _remembered(self, instances: int) -> Any:
        """Returns nested specs of what a meta-gradient remembers of runs."""

        @tf.function(autograph=False)
        def begin():
            runs = OptimizationRuns(
                Solver(self.rule),
                self._inner(self.problems[0], xla=False),
                Instances(*self.problems[0].draw(0, 0, instances)),
                tf.constant(self._step_weights),
                first_losses=None,
                scaled=tf.identity,
            )
            seed = tf.zeros([2], tf.int64)
            return self.meta_gradient.begin_runs(runs, self._theta(), seed)

        return keras.tree.map_structure(
            lambda x: tf.TensorSpec(x.shape, x.dtype), begin()
        )

    def _theta(self) -> list[tf.Tensor]:
        """Returns the values of the rule's weights."""
        variables = self.rule.trainable_variables
        return [tf.convert_to_tensor(v.value) for v in variables]

    def _seed(self, count: tf.Tensor | None = None) -> tf.Tensor:
        """Returns a seed of a meta-step, `[2]`.

        Args:
            count: Number of the meta-step; by default the optimizer's step
                counter. It is saved, so training that is resumed draws what
                it would have drawn.
        """
        if count is None:
            count = tf.convert_to_tensor(step_counter(self.optimizer))
        number = getattr(self.meta_gradient, "seed", 0)
        return tf.stack([tf.constant(number, count.dtype), count])

    def _train_on(
        self, problem: Problem, x: dict[str, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        runs = self._begin(problem, x)
        start = self.meta_gradient.begin_runs(runs, self._theta(), self._seed())
        windows = tf.cast(self._windows.read_value(), tf.int32)
        length = self._length

        def take_window(number, flat, total, _):
            first = number * length
            window = self.meta_gradient.take_window(
                runs,
                self._theta(),
                keras.tree.pack_sequence_as(start, flat),
                first,
                length,
                self._seed(),
            )
            self._report(window, runs.tasks, first)
            self._apply(window.gradients, self._health.is_ok)
            final_loss = tf.reduce_mean(window.losses[-1])
            flat = keras.tree.flatten(window.memory)
            return number + 1, flat, total + window.value, final_loss

        zero = tf.zeros([], runs.weights.dtype)
        _, _, total, final_loss = tf.while_loop(
            lambda number, *_: number < windows,
            take_window,
            (tf.zeros([], tf.int32), keras.tree.flatten(start), zero, zero),
        )
        sums = tf.cumsum(runs.weights)
        return total / sums[windows * length - 1], final_loss

    def _train_on_kept(self, kept: KeptRuns, data: Any) -> Outcome:
        """Learns from the next window of all groups of kept runs."""
        x = check_batch(data)
        check_kept_batch(x, kept.settings)
        windows, length = self._windows.read_value(), self._length
        groups = kept.groups(x["seed"][0], x["index"][0], windows, length)
        seed = self._seed(tf.convert_to_tensor(kept.clock.value))
        theta = self._theta()
        take_group = functools.partial(self._take_group, kept, theta, seed)
        taken = take_windows(take_group, groups, kept, theta)
        kept.keep(groups, taken.memory, taken.is_sound, length)
        self._apply(mean_gradients(taken), tf.reduce_any(taken.is_sound))
        return outcome(taken)

    def _take_group(
        self,
        kept: KeptRuns,
        theta: Sequence[tf.Tensor],
        seed: tf.Tensor,
        group: Group,
    ) -> GroupWindow:
        """Takes the next window of a group of kept runs."""
        runs = self._runs(
            self.problems[0], group.seed, group.index, kept.settings.group_size
        )
        seed = tf.random.experimental.stateless_fold_in(seed, group.number)
        first = tf.cast(group.position, tf.int32)

        def begin():
            memory = self.meta_gradient.begin_runs(runs, theta, seed)
            return keras.tree.flatten(memory)

        memory = tf.cond(tf.equal(first, 0), begin, lambda: group.memory)
        window = self.meta_gradient.take_window(
            runs,
            theta,
            keras.tree.pack_sequence_as(kept.like, memory),
            first,
            self._length,
            seed,
        )
        is_sound = self._report(window, runs.tasks, first, group.number)
        weights = tf.slice(runs.weights, [first], [self._length])
        return GroupWindow(
            keras.tree.flatten(window.memory),
            window.gradients,
            tf.cast(window.value, tf.float32),
            tf.cast(tf.reduce_sum(weights), tf.float32),
            tf.cast(tf.reduce_mean(window.losses[-1]), tf.float32),
            is_sound,
        )

    def _evaluate_on(
        self, problem: Problem, x: dict[str, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        runs = self._begin(problem, x)
        theta = self._theta()
        _, losses = runs.run(
            InnerLoop.run, theta, runs.start(theta), 0, self.evaluation_steps
        )
        self._health.report_inner_losses(losses)
        loss = tf.reduce_mean(runs.values(losses[1:]))
        self._health.report_outer(tf.math.is_finite(loss))
        return loss, tf.reduce_mean(losses[-1])

    def _report(
        self,
        window: WindowEstimate,
        instances: int,
        first: tf.Tensor,
        group: int | tf.Tensor = 0,
    ) -> tf.Tensor:
        """Reports what is not finite of a window.

        Args:
            window: What it says.
            instances: Number of instances. There may be a run for each of
                their particles.
            first: The window's first step.
            group: Number of the group that the instances are.

        Returns:
            Whether the rule can learn from it, a boolean scalar.
        """
        finite = tf.math.is_finite(window.losses)
        finite = tf.reshape(finite, [tf.shape(finite)[0], -1, instances])
        self._health.report_finite_losses(
            tf.reduce_all(finite, axis=1), first, group * instances
        )
        can_learn = can_learn_from(
            window.value, window.gradients, self.optimizer
        )
        self._health.report_outer(can_learn, first)
        return tf.logical_and(can_learn, tf.reduce_all(finite))

    def _apply(self, gradients: Sequence[tf.Tensor], counts: tf.Tensor) -> None:
        """Takes a meta-step, if it counts.

        Momentum would move the weights even if the gradients were zero.
        """

        def apply():
            variables = self.rule.trainable_variables
            self.optimizer.apply_gradients(
                zip(gradients, variables, strict=True)
            )
            return True

        tf.cond(counts, apply, lambda: False)

    def _resolve_auto_jit_compile(self) -> bool:
        problems = all(problem.supports_jit for problem in self.problems)
        return model_supports_jit(self) and problems

    def make_train_function(self, force: bool = False) -> Callable[[Any], Any]:
        """Builds the training step, which raises if problems diverge."""
        if self.train_function is None or force:
            if not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)
            super().make_train_function(force)
            self.train_function = self._stopping(self.train_function)
        return self.train_function

    def make_test_function(self, force: bool = False) -> Callable[[Any], Any]:
        """Builds the evaluation step, which raises if problems diverge."""
        if self.test_function is None or force:
            super().make_test_function(force)
            self.test_function = self._stopping(self.test_function)
        return self.test_function

    def _stopping(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        consequence = "The rule has learned nothing since."
        if self._kept is not None:
            consequence = (
                "The rule has learned nothing from its group, which begins "
                "anew."
            )
        return stops_on_divergence(
            function,
            self._health,
            lambda: self.tolerated_divergences,
            self.objective,
            consequence,
        )

    def save(
        self, filepath: str | os.PathLike, *args: Any, **kwargs: Any
    ) -> None:
        """Saves the learner; see `keras.Model.save`.

        Raises:
            NotImplementedError: If a problem has no `get_config`.
        """
        # Keras opens the file first, which may hold an earlier learner.
        self.get_config()
        super().save(filepath, *args, **kwargs)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a learner that is read from a file."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        serialize = keras.saving.serialize_keras_object
        weights = self._step_weights
        return {
            "name": self.name,
            "rule": serialize(self.rule),
            "problem": [serialize(problem) for problem in self.problems],
            "steps": len(weights),
            "current_steps": self.steps,
            "meta_gradient": serialize(self.meta_gradient),
            "start": serialize(self.start),
            "evaluation_steps": self.evaluation_steps,
            "step_weights": None if (weights == 1).all() else weights.tolist(),
            "objective": self.objective,
            "tolerated_divergences": self.tolerated_divergences,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> OptimizerLearner:
        """Makes a learner from `get_config`'s dict.

        Data of problems are not part of it; a file holds them.
        """
        config = dict(config)
        steps = config.pop("current_steps")
        deserialize = keras.saving.deserialize_keras_object
        for key in ("rule", "problem", "meta_gradient", "start"):
            config[key] = deserialize(config[key])
        learner = cls(**config)
        learner.steps = steps
        return learner

    def save_assets(self, folder: str) -> None:
        """Writes what the configs of problems do not hold."""
        save_problems(self.problems, folder)

    def load_assets(self, folder: str) -> None:
        """Reads what `save_assets` wrote."""
        load_problems(self.problems, folder)
