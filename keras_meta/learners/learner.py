"""The base of learners that adapt by gradient steps."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import Self

import keras
import tensorflow as tf

from keras_meta._keras import loss_weights
from keras_meta._keras import raises_as_is
from keras_meta.batching.annotations import attach
from keras_meta.batching.annotations import map_annotated
from keras_meta.batching.task_batched import TaskBatched
from keras_meta.checks import check_at_least
from keras_meta.execution.task_blocks import Inseparable
from keras_meta.execution.undoing import Change
from keras_meta.inner.batch import Batch
from keras_meta.inner.class_numbers import LabelRule
from keras_meta.inner.few_shot import FewShotProblem
from keras_meta.inner.few_shot import whole_support
from keras_meta.inner.inner_loop import InnerLoop
from keras_meta.inner.inner_loss import InnerLoss
from keras_meta.inner.solver import Carry
from keras_meta.inner.solver import Solver
from keras_meta.learners.adaptation.batched_over_all import BatchedOverAll
from keras_meta.learners.adaptation.cloning import clone_model
from keras_meta.learners.adaptation.recording import record_losses
from keras_meta.learners.adaptation.recording import record_predictions
from keras_meta.learners.adaptation.recording import swap_first_axes
from keras_meta.learners.adaptation.recording import with_start
from keras_meta.learners.adaptation.selection import require_same_choice
from keras_meta.learners.adaptation.selection import select_adapted
from keras_meta.learners.adaptation.starts import Drawn
from keras_meta.learners.adaptation.starts import DrawnStart
from keras_meta.learners.adaptation.starts import LearnedStart
from keras_meta.learners.adaptation.starts import as_drawn
from keras_meta.learners.adaptation.starts import others
from keras_meta.learners.arguments import as_update_rule
from keras_meta.learners.arguments import check_arguments
from keras_meta.learners.arguments import warn_of_low_rank
from keras_meta.learners.losses.chosen_losses import ChosenLosses
from keras_meta.learners.losses.inner_losses import is_learned
from keras_meta.learners.losses.inner_losses import prepare_inner_loss
from keras_meta.learners.losses.task_losses import Tasks
from keras_meta.learners.losses.task_losses import task_losses
from keras_meta.learners.meta_learner import MetaLearner
from keras_meta.learners.tasks.episode import Episode
from keras_meta.learners.tasks.signature import default_signature
from keras_meta.learners.tasks.single_task import inputs_of_one_task
from keras_meta.learners.tasks.texts import takes_texts
from keras_meta.meta_gradients.get import as_meta_gradient
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.meta_gradients.objective import Adaptation
from keras_meta.update_rules.update_rule import UpdateRule


class Learner(MetaLearner):
    """Base class of learners that adapt a model by gradient steps.

    Its `call` adapts the model to the support set of each task, in an inner
    loop of `steps` steps, and returns predictions for the query sets by the
    adapted networks. `MetaLearner` says what it takes and returns.

    Args:
        model: A built Keras model of any kind; its weights are the learned
            initialization (see `start`). Its layers compute task-batched
            where they have a rule, and once per task otherwise.
        update_rule: An update rule, or a number for `GradientDescent` with
            that rate.
        steps: Steps of the inner loop in training.
        evaluation_steps: Steps of the inner loop outside of training;
            `steps` by default.
        adapt: What the inner loop adapts: `"all"`, `"head"` (the last layer
            that has weights), `"normalization"`, a list of layers or layer
            names, or a predicate on variables.
        inner_loss: The loss of the inner loop, whatever `compile` takes as a
            loss, or a layer of `(y_true, y_pred)` such as a `LossNetwork`;
            by default the compiled loss. It is computed for each task
            alone and follows the loss's own reduction, by default the mean.
            The weights of a layer are learned like the initialization. A
            layer gets labels of the predictions' shape, class numbers
            one-hot, and the support set's inputs if its `call` has an
            argument `x`. `keras_meta.LearnedLoss` makes a loss for plain
            Keras of it.
            Regularizers of weights act on the initialization, and those of
            activities and other losses that layers add on the query sets,
            through the outer loss; none acts in the inner loop. What layers
            add must be a mean over examples.
        proximal: Strength of a proximal term in the inner loss,
            `proximal / 2 * |weights - initialization|^2`, which keeps the
            adapted weights near the initialization.
        meta_gradient: How the gradient comes back through the inner loop: a
            `keras_meta.MetaGradient`, or a name such as `"unrolled"`,
            `"first_order"` or `"evolution_strategies"` for one with its
            default options. It may be changed later.
        start: Where the inner loop begins: `"learned"`, at the model's
            weights, which are learned; `"drawn"` or a
            `keras_meta.Drawn(seed)`, at newly drawn weights for each task of
            each meta-step. Then rates, a rule, a loss, or what does not
            adapt is learned, and the weights that adapt are not.
        batch_statistics: What batch normalization normalizes with:
            `"batch"`, the statistics of the set that is passed through, so
            that a query's prediction depends on the other queries of its
            task (as in the MAML paper); `"support"`, the support set's, also
            for queries; `"running"`, as in Keras: the set's own in training,
            moving averages otherwise.

    Raises:
        ValueError: If an argument is out of range, the model is not built,
            nothing is adapted, or nothing is learned.
    """

    _start: LearnedStart | DrawnStart = LearnedStart()

    def __init__(
        self,
        model: keras.Model,
        update_rule: UpdateRule | float = 0.01,
        steps: int = 1,
        *,
        evaluation_steps: int | None = None,
        adapt: str | Sequence | Callable[[keras.Variable], bool] = "all",
        inner_loss: str
        | keras.losses.Loss
        | keras.Layer
        | Callable
        | None = None,
        proximal: float = 0.0,
        meta_gradient: MetaGradient | str = "unrolled",
        start: Drawn | str = "learned",
        batch_statistics: str = "batch",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        drawn = as_drawn(start)
        check_arguments(
            model,
            steps,
            evaluation_steps,
            proximal,
            batch_statistics,
        )
        self.model = model
        self.steps = int(steps)
        self.evaluation_steps = (
            None if evaluation_steps is None else int(evaluation_steps)
        )
        self.adapt_spec = adapt
        if isinstance(adapt, (list, tuple)):
            self.adapt_spec = [getattr(x, "name", x) for x in adapt]
        if inner_loss is not None:
            prepare_inner_loss(inner_loss, model)
        self.inner_loss = inner_loss
        self.proximal = float(proximal)
        self.batch_statistics = batch_statistics
        self.update_rule = as_update_rule(update_rule)
        adapted = select_adapted(model, adapt)
        self.update_rule.ensure_attached(adapted, steps)
        self._task_batched = TaskBatched(model, adapted)
        self._batched_over_all = BatchedOverAll(model)
        self._solver = Solver(self.update_rule)
        if drawn is not None:
            self._start = DrawnStart.make(
                drawn, model, adapted, self.add_weight
            )
        self.meta_gradient = meta_gradient
        # XLA has no strings.
        self.supports_jit = not takes_texts(model)
        self.built = True

    @property
    def start(self) -> Drawn | str:
        """Where the inner loop begins: `"learned"`, or a `Drawn`."""
        return self._start.settings

    def redraw(self, seed: int) -> None:
        """Draws new weights for the model, at which evaluation begins.

        With `start="drawn"`, what the learner predicts depends on these
        weights, and what it learns does not; see `keras_meta.Drawn`.

        Args:
            seed: Seed of the draw.

        Raises:
            ValueError: If the initial weights are learned.
        """
        self._start.redraw(seed)

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """What is learned, without weights that are drawn."""
        return others(super().trainable_variables, self._start.variables)

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        """The same, without states of metrics and seeds."""
        return others(super().trainable_weights, self._start.variables)

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        """All variables that are not learned."""
        return others(self.variables, self.trainable_variables)

    @property
    def non_trainable_weights(self) -> list[keras.Variable]:
        """The same, without states of metrics and seeds."""
        return others(self.weights, self.trainable_weights)

    @property
    def meta_gradient(self) -> MetaGradient:
        """How the gradient comes back through the inner loop."""
        return self._meta_gradient

    @meta_gradient.setter
    def meta_gradient(self, value: MetaGradient | str) -> None:
        value = as_meta_gradient(value)
        self.check_meta_gradient(value)
        self._meta_gradient = value
        self._log_of(value.logs)
        if getattr(self, "train_function", None) is not None:
            self.make_train_function(force=True)

    def check_meta_gradient(self, value: MetaGradient) -> None:
        """Refuses a meta-gradient that the learner cannot use."""
        value.check(self.update_rule, self.steps)
        if is_learned(self.inner_loss):
            value.check_learned_loss(self.inner_loss)
        self._start.check(
            value,
            self.trainable_variables,
            self._task_batched.adapted,
            self.proximal,
        )

    def _require_something_to_learn(self) -> None:
        # A start that is drawn says better what is missing.
        self.check_meta_gradient(self.meta_gradient)
        super()._require_something_to_learn()

    # Adaptation.

    @raises_as_is
    def call(
        self,
        inputs: dict[str, Any],
        training: bool | None = None,
        every_step: bool = False,
        steps: int | None = None,
    ) -> Any:
        """Returns the adapted networks' predictions for the query sets.

        Args:
            inputs: See the class.
            training: Whether this is a meta-training step.
            every_step: Whether to return predictions after each inner step,
                stacked along a new first axis.
            steps: Number of inner steps; by default those of training or
                evaluation.
        """
        training = bool(training)
        if steps is None:
            steps = self._number_of_steps(training)
        function = functools.partial(
            self._adapt_and_predict,
            training=training,
            every_step=every_step,
            steps=steps,
        )
        if training and not self.meta_gradient.differentiates_calls:
            function = _without_derivative(function)
        takes_all = training or every_step
        if takes_all and self._plan.value.one_by_one:
            raise Inseparable("training takes blocks of its own")
        return self._carried_out(function, inputs, training)

    def _adapt_and_predict(  # type: ignore[override]
        self,
        inputs: dict[str, Any],
        training: bool,
        every_step: bool,
        steps: int,
    ) -> Any:
        adaptation = self._adapt(inputs, training, steps, every_step)
        if not every_step:
            return self.predict_tasks(adaptation, inputs, training)
        predictions = attach(*adaptation.recorded[1])
        self._health.report_predictions(predictions)
        if training:
            self._keep_state(adaptation, adaptation.end)
        return predictions

    def adapt_tasks(
        self,
        inputs: dict[str, Any],
        training: bool = False,
        steps: int | None = None,
    ) -> Adaptation:
        """Runs the inner loop on the support sets of a batch of tasks.

        Args:
            inputs: The inputs of `call`.
            training: Whether this is a meta-training step.
            steps: Number of inner steps; by default those of training or
                evaluation.

        Returns:
            The adapted tasks.
        """
        if steps is None:
            steps = self._number_of_steps(training)
        return self._adapt(inputs, training, steps)

    def predict_tasks(
        self,
        adaptation: Adaptation,
        inputs: dict[str, Any],
        training: bool = False,
    ) -> Any:
        """Predicts the query sets of adapted tasks.

        Args:
            adaptation: What `adapt_tasks` returned.
            inputs: The inputs of `call`.
            training: Whether this is a meta-training step.

        Returns:
            Predictions, `[tasks, q, ...]`.
        """
        data = Episode.from_inputs(inputs, self.model).as_inputs()
        end = adaptation.end
        result = self._problem(training).predict(
            self._theta(), self._apart(data, training), end.params, end.state
        )
        for loss in result.losses:
            self.add_loss(loss)
        outputs = self._together(result.outputs, training)
        self._health.report_predictions(outputs)
        if training:
            self._keep_state(adaptation, end._replace(state=result.state))
        return outputs

    def task_losses(
        self,
        x: dict[str, Any],
        y: Any,
        sample_weight: Any,
        theta: Sequence[tf.Tensor],
        copies: int,
    ) -> tf.Tensor:
        """Returns the loss of each task for meta-parameters of its own.

        The tasks adapt as in a meta-training step and change no state. The
        loss of a task is the compiled loss of its queries. To use evolution
        strategies with a `compute_loss` of your own, override this method
        too.

        Args:
            x: The inputs of `call`.
            y: Labels of the query sets, `[tasks, q, ...]`.
            sample_weight: Weights of the query examples, `[tasks, q]`, or
                `None`.
            theta: Values of `trainable_variables` for each copy of each task,
                `[copies * tasks, *shape]` each, ordered as `[copies, tasks]`.
            copies: How many times to take each task.

        Returns:
            The losses, `[copies * tasks]`.

        Raises:
            ValueError: If the loss of each task alone is not known.
        """
        loss = self._query_loss
        data = self._with_valid_support(Episode.from_inputs(x, self.model))
        data = self._start.into(data)
        return task_losses(
            self._solver,
            self._problem_of_each(),
            loss,
            Tasks(data, y, sample_weight),
            theta,
            copies,
            self.steps,
        )

    def trajectory(
        self, inputs: dict[str, Any], steps: int | None = None
    ) -> Any:
        """Returns predictions for the query sets after every inner step.

        Args:
            inputs: The inputs of `call`.
            steps: Number of inner steps; by default those of evaluation.

        Returns:
            Predictions `[steps + 1, tasks, q, ...]`, the first ones by the
            unadapted initialization. Where the inner loop diverges they are
            not finite.
        """
        steps = self._number_of_steps(False) if steps is None else steps
        check_at_least(0, steps=steps)
        function = functools.partial(self._trajectory, steps=steps)
        if self._plan.value.one_by_one:
            function = functools.partial(self._trajectory_of_each, function)
        return self._reported(function, inputs, self._health.check_labels)

    def _trajectory_of_each(
        self, function: Callable, inputs: dict[str, Any]
    ) -> Any:
        """Returns trajectories that are computed one after another."""
        return swap_first_axes(
            self._each_task(lambda x: swap_first_axes(function(x)), inputs)
        )

    def _trajectory(self, inputs: dict[str, Any], steps: int) -> Any:
        problem = self._problem(training=False)
        data = Episode.from_inputs(inputs, self.model).as_inputs()
        theta = self._theta()
        start = self._solver.init(problem, theta, data)
        first = problem.predict(theta, data, start.params, start.state).outputs
        recorded = self._adapt(inputs, False, steps, every_step=True).recorded
        return with_start(first, None if recorded is None else recorded[1])

    def adapt(
        self,
        support_x: Any,
        support_y: Any,
        steps: int | None = None,
        sample_weight: Any = None,
    ) -> keras.Model:
        """Adapts to one task and returns a plain Keras model.

        Batch normalization layers of the returned model use the support
        set's statistics, unless `batch_statistics` is `"running"`.

        Args:
            support_x: Inputs of the task, nested as the model expects them,
                each `[n, ...]`.
            support_y: Their labels, `[n, ...]`.
            steps: Number of inner steps; by default those of evaluation.
            sample_weight: Weights of the examples, `[n]`.

        Returns:
            A model of the same architecture with adapted weights; it shares
            nothing with this one.
        """
        steps = self._number_of_steps(False) if steps is None else steps
        check_at_least(0, steps=steps)
        inputs = inputs_of_one_task(support_x, support_y, sample_weight)
        inputs = Episode.from_inputs(inputs, self.model).as_inputs()
        adaptation = self._reported(
            lambda inputs: self.adapt_tasks(inputs, steps=steps),
            inputs,
            functools.partial(self._health.check, inputs=inputs),
        )
        return self._plain_model(inputs, adaptation.end)

    def _plain_model(self, inputs: dict[str, Any], end: Carry) -> keras.Model:
        """Returns a copy of the model that is adapted to one task.

        Args:
            inputs: The task, as `call` takes it.
            end: The carry after the inner loop.
        """
        values = self._problem(training=False).one_task(
            inputs["support_x"], end.params, end.state
        )
        return clone_model(self.model, values)

    def _number_of_steps(self, training: bool) -> int:
        if training or self.evaluation_steps is None:
            return self.steps
        return self.evaluation_steps

    def _problem(self, training: bool) -> FewShotProblem:
        """Returns what the inner loop optimizes."""
        return FewShotProblem(
            variables=self.trainable_variables,
            xla=self._is_compiled_by_xla,
            task_batched=self._task_batched,
            inner_loss=self._chosen_losses.of_support,
            proximal=self.proximal,
            batch_statistics=self.batch_statistics,
            training=training,
            support_of_step=self._support_of_step,
        )

    def _problem_of_each(self) -> FewShotProblem:
        """Returns the problem of tasks with meta-parameters of their own."""
        adapted = self._task_batched.adapted
        batched = self._batched_over_all.get(adapted)
        return dataclasses.replace(
            self._problem(training=True),
            theta_per_task=True,
            task_batched=batched,
            fixed=len(batched.adapted) - len(adapted),
        )

    def _theta(self) -> list[tf.Tensor]:
        """Returns the values of the meta-parameters."""
        return [tf.convert_to_tensor(v.value) for v in self.trainable_variables]

    def _adapt(
        self,
        inputs: dict[str, Any],
        training: bool,
        steps: int,
        every_step: bool = False,
    ) -> Adaptation:
        """Runs the inner loop.

        Args:
            inputs: The inputs of `call`.
            training: Whether this is a meta-training step.
            steps: Number of steps.
            every_step: Whether to record the predictions after each step.

        Returns:
            The adapted tasks. It has recorded the inner losses before each
            step, `[steps, tasks]`, and with `every_step` the predictions for
            the query sets after it.
        """
        adapted = self._task_batched.adapted
        require_same_choice(self.model, self.adapt_spec, adapted)
        if training:
            # The inner loss may have been unfrozen in the meantime.
            self.check_meta_gradient(self.meta_gradient)
        # Another learner may have attached the same rule in the meantime.
        self.update_rule.ensure_attached(adapted, self.steps)
        data = self._with_valid_support(Episode.from_inputs(inputs, self.model))
        data = self._begin(data, training)
        return self._run(data, training, steps, every_step)

    def _apart(self, data: dict[str, Any], training: bool) -> dict[str, Any]:
        """Returns tasks as the inner loop takes them.

        Args:
            data: The inputs of `call`.
            training: Whether this is a meta-training step.
        """
        return data

    def _together(self, outputs: Any, training: bool) -> Any:
        """Returns predictions of what `_apart` returned as `call` does.

        Args:
            outputs: Nested tensors, `[tasks, q, ...]` each.
            training: Whether this is a meta-training step.
        """
        return outputs

    def _begin(self, data: dict[str, Any], training: bool) -> dict[str, Any]:
        """Returns tasks with where their inner loops begin.

        Args:
            data: Valid inputs of `call`.
            training: Whether this is a meta-training step.
        """
        return self._start.into(data) if training else data

    def _run(
        self,
        data: dict[str, Any],
        training: bool,
        steps: int,
        every_step: bool = False,
    ) -> Adaptation:
        """Runs the inner loop of tasks from where they begin; see `_adapt`."""
        problem = self._problem(training)
        theta = self._theta()
        start = self._solver.init(problem, theta, data)
        record = record_losses
        if every_step:
            record = functools.partial(
                record_predictions, self._solver, problem
            )
        loop = InnerLoop(
            self._solver, problem, theta, data, start, steps, record=record
        )
        end, recorded = (
            self.meta_gradient.solve(loop) if training else loop.run()
        )
        end = self._solver.finish(problem, theta, end)
        self._report_run(recorded, end, steps, training)
        gradient = self._solver.gradient_function(problem, data, end, steps)
        adapted = self._task_batched.adapted
        return Adaptation(adapted, start, end, recorded, gradient)

    def _report_run(
        self, recorded: Any, end: Carry, steps: int, training: bool
    ) -> None:
        """Reports losses and weights of an inner loop that are not finite.

        Args:
            recorded: What was recorded of its steps, the losses first.
            end: The carry after them.
            steps: Number of steps.
            training: Whether this is a meta-training step.
        """
        if recorded is not None:
            self._health.report_inner_losses(recorded[0])
        self._health.report_weights(end.params, steps)

    def _with_valid_support(self, episode: Episode) -> dict[str, Any]:
        """Reports labels of support sets out of range, and replaces them."""
        self._health.count_tasks(episode.tasks)
        rule = self._support_rule(episode.as_inputs())
        if rule is not None:
            self._health.report_labels(episode.support_y, rule)
        return episode.with_valid_labels(rule).as_inputs()

    def _support_of_step(
        self, data: dict[str, Any], step: int | tf.Tensor
    ) -> Batch:
        """Returns what a step learns from."""
        return whole_support(data, step)

    def _keep_state(self, adaptation: Adaptation, end: Carry) -> None:
        """Keeps what a step changed, unless the step failed."""
        changes = [
            Change(variable, old, new)
            for variable, old, new in zip(
                self._task_batched.state_variables,
                adaptation.start.state,
                end.state,
                strict=True,
            )
            if new is not old
        ]
        changes += self._start.changes()
        self._model_state.change(changes, self._health.is_ok)

    @property
    def _is_compiled_by_xla(self) -> bool:
        plan = self._plan.value
        if plan.exporting or not plan.xla or not self.compiled:
            return False
        return bool(self.jit_compile)

    @property
    def _chosen_losses(self) -> ChosenLosses:
        if not self.compiled:
            return ChosenLosses(self.inner_loss)
        return ChosenLosses(self.inner_loss, self.loss, loss_weights(self))

    @property
    def _query_loss(self) -> InnerLoss:
        """The compiled loss, of each task alone."""
        if type(self).compute_loss is not MetaLearner.compute_loss:
            raise ValueError(
                f"{type(self).__name__} has a `compute_loss` of its own, which "
                "evolution strategies cannot compute for each task alone. "
                "Override `task_losses` too, or use keras_meta.Unrolled()."
            )
        return self._chosen_losses.of_queries

    @property
    def _predictor(self) -> keras.Model:
        return self.model

    @property
    def _calls_layers_per_task(self) -> bool:
        return self._task_batched.has_fallback

    @property
    def _estimator(self) -> MetaGradient:
        return self.meta_gradient

    @property
    def _draws_random_numbers(self) -> bool:
        return self._start.draws or super()._draws_random_numbers

    @property
    def _settings_of_calls(self) -> tuple:
        # The loss as it was given: a name becomes a new object each time.
        return self._number_of_steps(False), self.inner_loss

    def _support_rule(self, inputs: dict[str, Any]) -> LabelRule | None:
        return self._chosen_losses.support_rule(inputs, self._output_specs)

    # Saving and serving.

    def _default_signature(self) -> dict[str, Any]:
        return default_signature(
            self.model, self._chosen_losses.takes_class_numbers
        )

    def save_own_variables(self, store: Any) -> None:
        """Saves weights of the learner's own; warns of what a file loses."""
        warn_of_low_rank(self.model)
        super().save_own_variables(store)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        serialize = keras.saving.serialize_keras_object
        adapt = self.adapt_spec
        return {
            "name": self.name,
            "trainable": self.trainable,
            "model": serialize(self.model),
            "update_rule": serialize(self.update_rule),
            "steps": self.steps,
            "evaluation_steps": self.evaluation_steps,
            "adapt": serialize(adapt) if callable(adapt) else adapt,
            "inner_loss": serialize(self.inner_loss),
            "proximal": self.proximal,
            "meta_gradient": serialize(self.meta_gradient),
            "start": serialize(self.start),
            "batch_statistics": self.batch_statistics,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a learner from `get_config`'s dict."""
        config = dict(config)
        for key in (
            "model",
            "update_rule",
            "inner_loss",
            "adapt",
            "meta_gradient",
            "start",
        ):
            if isinstance(config.get(key), dict):
                config[key] = keras.saving.deserialize_keras_object(config[key])
        return cls(**config)


def _without_derivative(function: Callable) -> Callable:
    stop = functools.partial(map_annotated, tf.stop_gradient)

    def call(inputs):
        return keras.tree.map_structure(stop, function(inputs))

    return call
