"""The meta-training step, and the function that Keras runs for it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf

from keras_meta._keras import model_supports_jit
from keras_meta.batching.annotations import attach
from keras_meta.batching.annotations import detach
from keras_meta.batching.annotations import merge_tasks
from keras_meta.execution import many_steps
from keras_meta.execution import task_blocks
from keras_meta.execution.endless import refuses_endless
from keras_meta.execution.not_finite import can_learn_from
from keras_meta.execution.undoing import Change
from keras_meta.execution.undoing import ModelState
from keras_meta.execution.undoing import undone_unless
from keras_meta.execution.warn_once import WarnOnce
from keras_meta.inner.inner_loss import averages_examples
from keras_meta.learners.losses.batch_objective import BatchObjective
from keras_meta.learners.losses.separable import require_separable
from keras_meta.learners.meta_evaluation import MetaEvaluation
from keras_meta.learners.tasks.task_size import examples_of_task
from keras_meta.learners.tasks.task_size import size_of_task
from keras_meta.learners.tasks.texts import has_texts
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.meta_gradients.objective import Adaptation


class StepResult(NamedTuple):
    """What a step computes from its tasks, before it changes anything.

    Attributes:
        gradients: One for each trainable variable, or `None`.
        loss: The outer loss, a scalar.
        predictions: The predictions for the query sets, `[tasks, q, ...]`.
        changes: New values of moving averages and seeds.
        logs: Further scalars for the logs, by name.
    """

    gradients: list[tf.Tensor | None]
    loss: tf.Tensor
    predictions: Any
    changes: list[Change]
    logs: Mapping[str, tf.Tensor]


class Blocks(NamedTuple):
    """How a step takes its tasks.

    Attributes:
        size: Tasks at a time.
        jit_compile: Whether XLA compiles what is done with them.
    """

    size: int
    jit_compile: bool


class MetaTraining(MetaEvaluation):
    """The part of a `Learner` that turns its `call` into training.

    On a CPU, XLA compiles a step on a large meta-batch in blocks of tasks,
    see `task_blocks`, where the loss is a mean over tasks and they share no
    state; the step is the same up to rounding. Large tasks for a convolutional
    network are taken one by one and without XLA, which is slower there.

    The `_estimator` of a subclass says how it learns from its tasks.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._model_state = ModelState()
        self._trackers: dict[str, keras.metrics.Mean] = {}
        self._warner = WarnOnce()

    @property
    def _estimator(self) -> MetaGradient:
        """How the gradient of the outer loss is estimated.

        By default it is the derivative of what the learner's call computes.
        """
        return MetaGradient()

    @property
    def _draws_random_numbers(self) -> bool:
        """Whether a step draws for all its tasks, as blocks could not."""
        return self._estimator.draws_random_numbers

    fit = refuses_endless(keras.Model.fit)

    def _log_of(self, names: Sequence[str]) -> None:
        """Makes metrics for what a meta-gradient adds to the logs."""
        for name in names:
            if name not in self._trackers:
                self._trackers[name] = keras.metrics.Mean(name)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Takes one meta-training step on a batch of tasks."""
        x, y, sample_weight = self._checked_batch(data)
        if self._has_own_step:
            blocks = self._blocks(x, sample_weight)
            if blocks is not None:
                with contextlib.suppress(task_blocks.Inseparable):
                    return self._step_in_blocks(x, y, sample_weight, blocks)
        whole = self._whole_step
        is_graph = not tf.executing_eagerly()
        if self._compiles_itself and is_graph and not has_texts(x):
            whole = tf.function(whole, autograph=False, jit_compile=True)
        return whole(x, y, sample_weight)

    @property
    def _compiles_itself(self) -> bool:
        """Whether `train_step` decides what XLA compiles.

        If a subclass overrides the step, Keras compiles it as a whole.
        """
        return self._has_own_step and bool(self.jit_compile)

    @property
    def _has_own_step(self) -> bool:
        return type(self).train_step is MetaTraining.train_step

    @property
    def _takes_many_steps(self) -> bool:
        """Whether XLA may compile all steps of an execution as one loop."""
        return (
            self.steps_per_execution > 1
            and self._compiles_itself
            and not self._is_distributed
        )

    def _checked_batch(self, data: Any) -> tuple[dict[str, Any], Any, Any]:
        """Returns what a step learns from: inputs, labels and weights."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y = self._checked_labels(x, y, sample_weight)
        x = self._prepare(self._as_checked(x, needs_queries=True))
        return x, y, sample_weight

    def _prepare(self, x: dict[str, Any]) -> dict[str, Any]:
        """Returns the inputs that a step learns from."""
        return x

    def _whole_step(
        self, x: dict[str, Any], y: Any, sample_weight: Any
    ) -> dict[str, Any]:
        with self._undone_if_failed():
            result = self._computed(x, y, sample_weight)
            return self._apply(x, y, sample_weight, result)

    def _computed(
        self, x: dict[str, Any], y: Any, sample_weight: Any
    ) -> StepResult:
        """Returns what a step computes.

        It changes nothing except the trackers that Keras keeps for the losses
        of several outputs.
        """
        with self._model_state.held_back() as changes:
            result = self._estimate(x, y, sample_weight)
        return result._replace(changes=changes)

    def _step_in_blocks(
        self, x: dict[str, Any], y: Any, sample_weight: Any, blocks: Blocks
    ) -> dict[str, Any]:
        learned = []

        def block(*arguments):
            with (
                self._health.collecting() as report,
                self._plan.changing(xla=blocks.jit_compile),
            ):
                result = self._computed(*arguments)
            if result.changes:
                raise task_blocks.Inseparable("the step changes a state")
            require_separable(result.predictions, self)
            learned[:] = [g is not None for g in result.gradients]
            gradients = [g for g in result.gradients if g is not None]
            predictions = detach(result.predictions)
            sums = gradients, result.loss, dict(result.logs)
            return sums, (predictions, report.value)

        (gradients, loss, logs), (predictions, reports) = (
            task_blocks.map_blocks(
                block,
                blocks.size,
                (x, y, sample_weight),
                jit_compile=blocks.jit_compile,
            )
        )
        self._health.merge(reports, blocks.size)
        number = tf.shape(reports)[0]
        means = iter(g / tf.cast(number, g.dtype) for g in gradients)
        result = StepResult(
            [next(means) if is_learned else None for is_learned in learned],
            loss / tf.cast(number, loss.dtype),
            keras.tree.map_structure(merge_tasks, attach(*predictions)),
            changes=[],
            logs={k: x / tf.cast(number, x.dtype) for k, x in logs.items()},
        )
        with self._undone_if_failed():
            return self._apply(x, y, sample_weight, result)

    def _blocks(self, x: dict[str, Any], sample_weight: Any) -> Blocks | None:
        """Returns how to take the tasks, or `None` for all at once.

        The mean over blocks must be the mean over tasks, so the loss must be
        known to treat every example on its own.
        """
        if not self._may_go_task_by_task:
            return None
        if type(self).compute_loss is not MetaEvaluation.compute_loss:
            return None
        if not averages_examples(self.loss, sample_weight is not None):
            return None
        if self._draws_random_numbers:
            return None
        if not self.jit_compile and not task_blocks.has_plain_kernels(
            self._predictor
        ):
            return None
        bytes_per_task = size_of_task(self._predictor, x)
        if bytes_per_task is None:
            return None
        if task_blocks.is_faster_plain(self._predictor, bytes_per_task):
            return Blocks(1, jit_compile=False)
        if not self.jit_compile:
            return None
        size = task_blocks.block_size(x["support_y"].shape[0], bytes_per_task)
        return None if size is None else Blocks(size, jit_compile=True)

    def _estimate(
        self, x: dict[str, Any], y: Any, sample_weight: Any
    ) -> StepResult:
        """Returns what the tasks say about the learned weights."""
        objective = BatchObjective(self, x, y, sample_weight)
        estimate = self._estimator.estimate(objective)
        gradients = list(map(_densify, estimate.gradients))
        return StepResult(
            gradients, estimate.loss, estimate.predictions, [], estimate.logs
        )

    def outer_loss(
        self,
        x: dict[str, Any],
        y: Any,
        sample_weight: Any = None,
        adaptation: Adaptation | None = None,
    ) -> tuple[tf.Tensor, Any]:
        """Returns what training minimizes, and predictions for the queries.

        Args:
            x: The inputs of `call`.
            y: Labels of the query sets, `[tasks, q, ...]`.
            sample_weight: Weights of the query examples, `[tasks, q]`.
            adaptation: The tasks as `adapt_tasks` returned them; by default
                they are adapted here.
        """
        if adaptation is None:
            y_pred = self(x, training=True)
        else:
            self._clear_losses()
            y_pred = self.predict_tasks(adaptation, x, training=True)
        loss = self._compute_loss(
            x=x,
            y=y,
            y_pred=y_pred,
            sample_weight=sample_weight,
            training=True,
        )
        return loss, y_pred

    def _apply(
        self, x: dict[str, Any], y: Any, sample_weight: Any, result: StepResult
    ) -> dict[str, Any]:
        """Updates the learned weights; returns the step's logs."""
        self._health.report_outer(
            can_learn_from(result.loss, result.gradients, self.optimizer)
        )
        is_ok = self._health.is_ok_everywhere
        for change in result.changes:
            change.apply(is_ok)
        self.optimizer.apply_gradients(
            zip(result.gradients, self.trainable_variables, strict=True)
        )
        for name, value in result.logs.items():
            self._trackers[name].update_state(value)
        return self._log(x, y, result.predictions, sample_weight, result.loss)

    def _evaluate(self, data: Any) -> dict[str, Any]:
        """Evaluates a batch; leaves out what only training measures."""
        logs = super()._evaluate(data)
        return {k: v for k, v in logs.items() if k not in self._trackers}

    def _undone_if_failed(self) -> contextlib.AbstractContextManager[None]:
        """Undoes what a failed step changed, except the model's state."""
        variables = [
            *self.trainable_variables,
            *self.optimizer.variables,
            *self.metrics_variables,
        ]
        return undone_unless(lambda: self._health.is_ok_everywhere, variables)

    def _resolve_auto_jit_compile(self) -> bool:
        """Returns what `compile(jit_compile="auto")` means.

        Keras leaves XLA off on the CPU; the inner loop is faster with it. It
        stays off where a layer is called once per task, which compiles
        slowly, where a layer does not support it, and where Keras cannot
        combine it with `tf.distribute`.
        """
        return (
            model_supports_jit(self)
            and not self._calls_layers_per_task
            and not self._is_distributed
        )

    def make_train_function(self, force: bool = False) -> Callable[[Any], Any]:
        """Builds the training step, which raises if something fails."""
        if self.train_function is None or force:
            self._require_something_to_learn()
            self._build_optimizer()
            with self._compiling_itself(self._compiles_itself):
                super().make_train_function(force)
            function = self.train_function
            if self._takes_many_steps:
                function = self._in_one_loop(function)
            # Only the library's own step is known to undo itself.
            function = self._checked(
                function, self._has_own_step, self._estimator.hint
            )
            self.train_function = self._warner.around(
                function,
                self._trackers if self._estimator.logs else (),
                self._estimator.warning,
            )
        return self.train_function

    def _require_something_to_learn(self) -> None:
        if not self.trainable_variables:
            raise ValueError(
                f"{type(self).__name__} has nothing to learn from tasks. "
                "Received: a learner without trainable variables. "
                f"{self._instead_of_fit}"
            )

    @property
    def _instead_of_fit(self) -> str:
        """The sentences of an error that name the way out."""
        return "Set `trainable = True` on the layers to be learned."

    def _in_one_loop(
        self, function: Callable[[Any], Any]
    ) -> Callable[[Any], Any]:
        """Compiles all steps of an execution together, if they are small."""
        loops = {}

        def call(iterator):
            spec = getattr(iterator, "element_spec", None)
            if spec is None:
                return function(iterator)
            key = str(spec)
            if key not in loops:
                loops[key] = self._make_loop(spec)
            return (loops[key] or function)(iterator)

        return call

    def _make_loop(self, spec: Any) -> Callable[[Any], Any] | None:
        """Returns a function of an iterator, or `None` to take single steps."""
        chunk = many_steps.chunk_size(spec, self.steps_per_execution)
        x, _, sample_weight = keras.utils.unpack_x_y_sample_weight(spec)
        if chunk is None or has_texts(x) or examples_of_task(x) is None:
            return None
        if self._blocks(x, sample_weight) is not None:
            return None

        def step(data):
            return self._whole_step(*self._checked_batch(data))

        return many_steps.make_many_steps(
            step, spec, self.steps_per_execution, chunk
        )

    def _build_optimizer(self) -> None:
        """Creates the optimizer's variables.

        A step that creates variables is traced twice.
        """
        if self.optimizer is not None and not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)


def _densify(gradient: Any) -> tf.Tensor | None:
    return None if gradient is None else tf.convert_to_tensor(gradient)
