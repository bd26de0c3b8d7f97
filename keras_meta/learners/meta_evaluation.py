"""Evaluation and prediction, and the functions that Keras runs for them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_meta._keras import is_traced_for_xla
from keras_meta.batching.annotations import attach
from keras_meta.batching.annotations import detach
from keras_meta.batching.annotations import merge_tasks
from keras_meta.batching.output_specs import OutputSpecs
from keras_meta.execution import task_blocks
from keras_meta.execution.compiled_functions import CompiledFunctions
from keras_meta.execution.endless import refuses_endless
from keras_meta.execution.health import Health
from keras_meta.execution.plan import PerThread
from keras_meta.execution.plan import Plan
from keras_meta.execution.watch import Watch
from keras_meta.inner.class_numbers import LabelRule
from keras_meta.inner.inner_loss import check_shapes
from keras_meta.learners.losses.separable import require_separable
from keras_meta.learners.metric_variables import build_metrics
from keras_meta.learners.tasks.as_examples import as_examples
from keras_meta.learners.tasks.episode import Episode
from keras_meta.learners.tasks.episode import check_query
from keras_meta.learners.tasks.query_labels import label_rules
from keras_meta.learners.tasks.task_size import is_faster_plain
from keras_meta.learners.tasks.texts import has_texts
from keras_meta.learners.tasks.texts import output_shape


class MetaEvaluation(keras.Model):
    """The part of a `Learner` that evaluates and predicts.

    A step takes all tasks at once, compiled by XLA if training is. On a
    CPU, large tasks for a convolutional network are taken one by one and
    without XLA, which is slower there; see `task_blocks`.

    The properties under "What subclasses say" are for subclasses to override.
    """

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self._health = Health()
        self._plan = PerThread(Plan())
        self._watch = Watch(self._health, self._plan)
        self._functions = CompiledFunctions()

    @property
    def jit_compile(self) -> bool:
        """Whether XLA compiles steps, see `compile`."""
        # Keras reads this when it builds a function from a step.
        if not self._plan.value.keras_compiles:
            return False
        return keras.Model.jit_compile.fget(self)

    @jit_compile.setter
    def jit_compile(self, value: bool | str | None) -> None:
        keras.Model.jit_compile.fset(self, value)

    # What subclasses say.

    @property
    def _predictor(self) -> keras.Model | None:
        """The model that maps inputs to predictions, if there is one."""
        return None

    @property
    def _reader(self) -> keras.Model | None:
        """The model that takes the inputs, if there is one."""
        return self._predictor

    @property
    def _calls_layers_per_task(self) -> bool:
        """Whether some layer is called once per task, which XLA slows down."""
        return False

    @property
    def _settings_of_calls(self) -> tuple:
        """What a compiled call depends on, besides what `compile` changes."""
        return ()

    evaluate = refuses_endless(keras.Model.evaluate)
    predict = refuses_endless(keras.Model.predict)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Evaluates a batch of tasks."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        y = self._checked_labels(x, y, sample_weight)
        x = self._as_checked(x, needs_queries=True)
        data = x, y, sample_weight
        return self._in_fastest_way(self._evaluate, data)

    def predict_step(self, data: Any) -> Any:
        """Predicts the query sets of a batch of tasks."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        return self._in_fastest_way(
            super().predict_step, (self._as_checked(x),)
        )

    def _evaluate(self, data: Any) -> dict[str, Any]:
        """Predicts a batch of tasks and updates loss and metrics."""
        x, y, sample_weight = data
        y_pred = self(x, training=False)
        loss = self._compute_loss(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=False
        )
        self._health.report_outer(tf.reduce_all(tf.math.is_finite(loss)))
        return self._log(x, y, y_pred, sample_weight, loss)

    def _log(
        self,
        x: dict[str, Any],
        y: Any,
        y_pred: Any,
        sample_weight: Any,
        loss: tf.Tensor,
    ) -> dict[str, Any]:
        """Updates the loss and the metrics; returns the logs."""
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._loss_tracker.update_state(
            loss * replicas, sample_weight=Episode(**x).tasks
        )
        return self.compute_metrics(x, y, y_pred, sample_weight)

    def make_test_function(self, force: bool = False) -> Callable[[Any], Any]:
        """Builds the evaluation step, which raises if something fails."""
        if self.test_function is None or force:
            is_own = type(self).test_step is MetaEvaluation.test_step
            with self._compiling_itself(is_own):
                super().make_test_function(force)
            self.test_function = self._checked(self.test_function)
        return self.test_function

    def make_predict_function(
        self, force: bool = False
    ) -> Callable[[Any], Any]:
        """Builds the prediction step, which raises if something fails."""
        if self.predict_function is None or force:
            is_own = type(self).predict_step is MetaEvaluation.predict_step
            # Unless Keras compiles them, it traces each of several steps.
            is_one = self.steps_per_execution == 1
            with self._compiling_itself(is_own and is_one):
                super().make_predict_function(force)
            self.predict_function = self._checked(self.predict_function)
        return self.predict_function

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> tf.Tensor | None:
        """Returns the compiled loss of all query examples as one batch.

        Keras defines losses and metrics for examples, so they do not see
        tasks. Override this method for a loss that does.

        Args:
            x: The inputs of `call`.
            y: Labels of the query sets, `[tasks, q, ...]`; losses get them
                as `[tasks * q, ...]`, and the other arguments likewise.
            y_pred: Predictions for the query sets, `[tasks, q, ...]`.
            sample_weight: Weights of the query examples, `[tasks, q]`.
            training: Whether this is a meta-training step.
        """
        y, y_pred, sample_weight = as_examples(y, y_pred, sample_weight)
        return super().compute_loss(x, y, y_pred, sample_weight, training)

    def compute_metrics(
        self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None
    ) -> dict[str, Any]:
        """Updates the compiled metrics and returns all metrics.

        Args:
            x: The inputs of `call`.
            y: See `compute_loss`; metrics get the same shapes as losses.
            y_pred: See `compute_loss`.
            sample_weight: See `compute_loss`.
        """
        y, y_pred, sample_weight = as_examples(y, y_pred, sample_weight)
        return super().compute_metrics(x, y, y_pred, sample_weight)

    def each_sample(self, y_pred: Any) -> list[Any]:
        """Returns predictions one by one of which a loss is the mean.

        Args:
            y_pred: What `call` returned.
        """
        return [y_pred]

    def combined(self, y_pred: Any) -> Any:
        """Returns the predictions that metrics see, `[tasks, q, ...]`.

        Args:
            y_pred: What `call` returned.
        """
        return y_pred

    # Measuring task by task.

    def predict_adapted(
        self, x: dict[str, Any], steps: int | None = None
    ) -> Any:
        """Returns predictions, by a function that is compiled once.

        It is compiled again after `compile`, as Keras's own functions are.

        Args:
            x: The inputs of `call`.
            steps: Number of inner steps; by default those of evaluation.

        Returns:
            Predictions `[tasks, q, ...]`, with what Keras attached to them.

        Raises:
            FloatingPointError: If a loss is not finite.
            ValueError: If a label is out of range.
        """
        options = {} if steps is None else {"steps": steps}
        outputs, report = self._compiled(
            lambda x: self(x, training=False, **options), ("predict", steps)
        )(x)
        self._health.check(report, inputs=x)
        return attach(*outputs)

    def predict_each_step(self, x: dict[str, Any], steps: int) -> Any:
        """Returns predictions after every step, compiled once.

        Args:
            x: The inputs of `call`.
            steps: Number of inner steps.

        Returns:
            Predictions `[steps + 1, tasks, q, ...]`; see `trajectory`.

        Raises:
            ValueError: If a label is out of range.
        """
        outputs, report = self._compiled(
            lambda x: self.trajectory(x, steps), ("trajectory", steps)
        )(x)
        self._health.check_labels(report)
        return attach(*outputs)

    def _compiled(
        self, function: Callable[[Any], Any], key: tuple
    ) -> Callable[[Any], Any]:
        """Returns a function of inputs, compiled now or before.

        Args:
            function: A function of inputs that calls this learner.
            key: What distinguishes it from others.

        Returns:
            A function that returns the outputs, detached, and a report.
        """

        def report_too(x):
            # A function for XLA must return all that leaves its graph.
            with self._health.collecting() as report:
                outputs = function(x)
            return detach(outputs), report.value

        def make():
            whole = functools.partial(self._in_fastest_way, report_too)
            if self.run_eagerly:
                return whole
            return tf.function(whole, autograph=False, reduce_retracing=True)

        # Keras forgets this function in `compile`.
        self.make_predict_function()
        settings = (
            *self._settings_of_calls,
            self.jit_compile,
        )
        return self._functions.get(self.predict_function, key + settings, make)

    # How tasks are taken.

    def _in_fastest_way(self, function: Callable[[Any], Any], data: Any) -> Any:
        """Calls a function that predicts the query sets of a batch.

        Args:
            function: A function of `data`. It calls this learner.
            data: A batch of tasks, as Keras takes it.

        Returns:
            What `function` returns.
        """
        may_split = self._may_go_task_by_task
        if may_split and is_faster_plain(self._predictor, data):
            with (
                contextlib.suppress(task_blocks.Inseparable),
                self._plan.changing(one_by_one=True),
            ):
                return function(data)
        is_graph = not tf.executing_eagerly() and not is_traced_for_xla()
        if self.jit_compile and is_graph and not has_texts(data):
            function = tf.function(function, autograph=False, jit_compile=True)
        return function(data)

    @property
    def _may_go_task_by_task(self) -> bool:
        """Whether this is a graph that nothing else splits or compiles."""
        if tf.executing_eagerly() or is_traced_for_xla():
            return False
        return self._predictor is not None and not self._is_distributed

    def _each_task(self, function: Callable[[Any], Any], inputs: Any) -> Any:
        """Returns what a function returns for each task, one after another.

        Args:
            function: A function of `inputs` of one task. It returns
                predictions `[1, ...]`.
            inputs: See `Learner.call`.

        Returns:
            Predictions `[tasks, ...]`.

        Raises:
            task_blocks.Inseparable: If tasks depend on each other.
        """

        def block(inputs):
            with (
                self._health.collecting() as report,
                self._plan.changing(xla=False),
            ):
                outputs = function(inputs)
            require_separable(outputs, self)
            return (), (detach(outputs), report.value)

        inputs = self._as_checked(inputs)
        _, (outputs, reports) = task_blocks.map_blocks(
            block, 1, (inputs,), jit_compile=False
        )
        self._health.merge(reports, 1)
        return keras.tree.map_structure(merge_tasks, attach(*outputs))

    def _compiling_itself(
        self, does: bool
    ) -> contextlib.AbstractContextManager[None]:
        """Keeps Keras from compiling a step that decides about it itself."""
        return self._plan.changing(keras_compiles=not does)

    # Checks.

    def _as_checked(
        self, x: Any, needs_queries: bool = False
    ) -> dict[str, Any]:
        """Returns the inputs of `call` as tensors that fit the model."""
        episode = Episode.from_inputs(x, self._reader, needs_queries)
        return episode.as_inputs()

    def _checked_labels(self, x: Any, y: Any, sample_weight: Any) -> Any:
        """Returns the labels of the query sets as tensors that fit the loss.

        Class numbers out of range are reported, and replaced.
        """
        y = check_query(x, y, sample_weight)
        shape = output_shape(self._predictor)
        is_loss = isinstance(self.loss, str) or callable(self.loss)
        if shape is not None and is_loss and not keras.tree.is_nested(y):
            predictions = tf.TensorShape([*y.shape[:2], *shape[1:]])
            check_shapes(self.loss, "query_y", y.shape, predictions)
        return self._with_valid_labels(x, y)

    def _checked(
        self,
        function: Callable[[Any], Any],
        undone: bool = False,
        hint: str = "",
    ) -> Callable[[Any], Any]:
        """Makes a function of an iterator raise if a step fails.

        Args:
            function: What Keras built from a step.
            undone: Whether the step undoes what it did when it fails.
            hint: See `Failure.error`.
        """

        def call_and_check(iterator):
            self._build_metrics(getattr(iterator, "element_spec", None))
            with self._watch.active():
                outputs = function(iterator)
            self._health.check(undone=undone, hint=hint)
            return outputs

        return call_and_check

    def _build_metrics(self, spec: Any) -> None:
        """Creates the metrics' variables, if this spec of the data suffices."""
        metrics = self._compile_metrics
        if metrics is None or metrics.built or self._is_distributed:
            return
        if spec is not None:
            build_metrics(metrics, self._predictor, spec, self.run_eagerly)

    @property
    def _is_distributed(self) -> bool:
        made_in = self._distribute_strategy
        return made_in is not None or tf.distribute.has_strategy()

    def _reported(
        self,
        function: Callable[[Any], Any],
        inputs: Any,
        check: Callable[[tf.Tensor], None],
    ) -> Any:
        """Calls a function, and checks what it reports; see `Watch`.

        Args:
            function: A function of `inputs`.
            inputs: See `Learner.call`.
            check: Raises if a report, its value, holds a failure.

        Returns:
            What `function` returns.
        """
        return self._watch.reported(
            function,
            inputs,
            check,
            lambda: self._support_rule(inputs),
            self._is_distributed,
        )

    def _support_rule(self, inputs: dict[str, Any]) -> LabelRule | None:
        """Returns what `support_y` must be, if it is class numbers.

        Args:
            inputs: See `Learner.call`.
        """
        return None

    def _query_rules(self, x: Any, y: Any) -> list[LabelRule | None]:
        """Returns what each of the flat labels of the query sets must be.

        Args:
            x: See `Learner.call`. Its own faults are reported elsewhere.
            y: Nested labels, `[tasks, q, ...]` each.
        """
        queries = x.get("query_x") if isinstance(x, dict) else None
        return label_rules(
            self.loss, y, lambda: self._output_specs.of(queries, axes=2)
        )

    def _with_valid_labels(self, x: Any, y: Any) -> Any:
        """Reports labels of the query sets out of range, and replaces them.

        Args:
            x: See `Learner.call`.
            y: Nested tensors, `[tasks, q, ...]` each.
        """
        flat = keras.tree.flatten(y)
        rules = self._query_rules(x, y)
        for i, rule in enumerate(rules):
            if rule is not None:
                self._health.report_labels(flat[i], rule)
                flat[i] = rule.classes.replace_others(flat[i])
        return keras.tree.pack_sequence_as(y, flat)

    def check_query_labels(self, x: Any, y: Any) -> None:
        """Requires labels that the compiled loss accepts.

        Args:
            x: See `Learner.call`.
            y: Labels of the query sets, nested, `[tasks, q, ...]` each.

        Raises:
            ValueError: If they are class numbers and one is out of range.
        """
        with self._health.collecting() as report:
            self._with_valid_labels(x, y)
        self._health.check_labels(report.value)

    @functools.cached_property
    def _output_specs(self) -> OutputSpecs:
        return OutputSpecs(self._predictor)
