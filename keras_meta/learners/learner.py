"""What all meta-learners have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta._keras import raises_as_is
from keras_meta.checks import check_at_least
from keras_meta.checks import describe
from keras_meta.learners.arguments import as_inner_loss
from keras_meta.learners.arguments import as_update_rule
from keras_meta.learners.arguments import check_arguments
from keras_meta.learners.arguments import warn_of_low_rank
from keras_meta.learners.cloning import clone_model
from keras_meta.learners.episode import Episode
from keras_meta.learners.episode import check_is_dict
from keras_meta.learners.meta_training import MetaTraining
from keras_meta.learners.signature import default_signature
from keras_meta.learners.task_blocks import Inseparable
from keras_meta.learners.tensors import as_tensor
from keras_meta.learners.tensors import as_tensors
from keras_meta.learners.texts import takes_texts
from keras_meta.learners.undoing import Change
from keras_meta.unroll.annotations import attach
from keras_meta.unroll.annotations import detach
from keras_meta.unroll.annotations import map_annotated
from keras_meta.unroll.checkpoint import checkpointed_unroll
from keras_meta.unroll.checkpoint import segment_length
from keras_meta.unroll.inner_loop import Carry
from keras_meta.unroll.inner_loop import InnerLoop
from keras_meta.unroll.inner_loop import Support
from keras_meta.unroll.inner_loss import InnerLoss
from keras_meta.unroll.selection import require_same_choice
from keras_meta.unroll.selection import select_adapted
from keras_meta.unroll.task_batched import TaskBatched
from keras_meta.update_rules.update_rule import UpdateRule


class Learner(MetaTraining):
    """Base class of meta-learners: adapts a model to each task's support set.

    Its `call` takes a dict of `support_x` `[tasks, n, ...]`, `support_y`
    `[tasks, n, ...]` and `query_x` `[tasks, q, ...]` (and optionally
    `support_sample_weight` `[tasks, n]`) and returns predictions for
    `query_x` by the network adapted to each task, `[tasks, q, ...]`. `fit`,
    `evaluate` and `predict` take data sets of `(x, query_y)` with such `x`.
    Compiled losses and metrics get the queries of all tasks as one batch,
    `[tasks * q, ...]`; override `compute_loss` for a loss that sees tasks.

    Args:
        model: A built Keras model of any kind; its weights are the learned
            initialization. Its layers compute task-batched where they have
            a rule, and once per task otherwise.
        update_rule: An update rule, or a number for `GradientDescent` with
            that rate.
        steps: Steps of the inner loop in training.
        evaluation_steps: Steps of the inner loop outside of training;
            `steps` by default.
        adapt: What the inner loop adapts: `"all"`, `"head"` (the last layer
            that has weights), `"normalization"`, a list of layers or layer
            names, or a predicate on variables.
        inner_loss: The loss of the inner loop, whatever `compile` takes as a
            loss; by default the compiled loss. It is computed for each task
            alone and follows the loss's own reduction, by default the mean.
            Regularizers of weights act on the initialization, and those of
            activities and other losses that layers add on the query sets,
            through the outer loss; none acts in the inner loop. What layers
            add must be a mean over examples.
        first_order: Whether to drop second derivatives.
        checkpoint: What training keeps of the inner loop for the gradient:
            `"off"`, all that every step computes; `"step"`, the adapted
            weights between the steps, which are computed twice; `"sqrt"`,
            those between about `sqrt(steps)` segments; `"auto"`, off up to
            32 steps and in first order, `"sqrt"` otherwise. The gradient is
            the same.
        batch_statistics: What batch normalization normalizes with:
            `"batch"`, the statistics of the set that is passed through, so
            that a query's prediction depends on the other queries of its
            task (as in the MAML paper); `"support"`, the support set's, also
            for queries; `"running"`, as in Keras: the set's own in training,
            moving averages otherwise.

    Raises:
        ValueError: If an argument is out of range, the model is not built or
            nothing is adapted.
    """

    def __init__(
        self,
        model: keras.Model,
        update_rule: UpdateRule | float = 0.01,
        steps: int = 1,
        *,
        evaluation_steps: int | None = None,
        adapt: str | Sequence | Callable[[keras.Variable], bool] = "all",
        inner_loss: str | keras.losses.Loss | Callable | None = None,
        first_order: bool = False,
        checkpoint: str = "auto",
        batch_statistics: str = "batch",
        **kwargs,
    ):
        # Labels and regression targets must not be cast to the model's type.
        super().__init__(autocast=False, dtype=keras.config.floatx(), **kwargs)
        check_arguments(
            model,
            steps,
            evaluation_steps,
            first_order,
            checkpoint,
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
            as_inner_loss(inner_loss)
        self.inner_loss = inner_loss
        self.first_order = bool(first_order)
        self.checkpoint = checkpoint
        self.batch_statistics = batch_statistics
        self.update_rule = as_update_rule(update_rule, self.first_order)
        adapted = select_adapted(model, adapt)
        self.update_rule.ensure_attached(adapted, steps)
        self._inner_loop = InnerLoop(
            TaskBatched(model, adapted),
            self.update_rule,
            batch_statistics,
            self.steps,
        )
        # XLA has no strings.
        self.supports_jit = not takes_texts(model)
        self.built = True

    # Adaptation.

    def __call__(self, inputs, *args, **kwargs):
        """Calls the learner as a Keras model, see `call`."""
        # Here errors name the input, which those of Keras would not.
        check_is_dict(inputs)
        if not _is_symbolic(inputs):
            inputs = as_tensors(inputs)
        return super().__call__(inputs, *args, **kwargs)

    @raises_as_is
    def call(
        self,
        inputs: dict[str, Any],
        training: bool | None = None,
        every_step: bool = False,
        steps: int | None = None,
    ):
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
        if self._plan.value.exporting:
            return self._asserting(function, inputs)
        if self._plan.value.one_by_one:
            if training or every_step:
                raise Inseparable("training takes blocks of its own")
            function = functools.partial(self._each_task, function)
        check = functools.partial(
            self._health.check, undone=training, inputs=inputs
        )
        return self._reported(function, inputs, check)

    def _adapt_and_predict(
        self, inputs: dict[str, Any], training: bool, every_step: bool, steps
    ):
        episode = Episode.from_inputs(inputs, self.model)
        start = self._inner_loop.start(episode.tasks)
        carry, outputs = self._unroll(
            episode, start, steps, training, every_step
        )
        if every_step:
            predictions = attach(*outputs[1])
        else:
            predictions, carry, losses = self._inner_loop.predict(
                carry,
                episode.support_x,
                episode.query_x,
                training=training,
                xla=self._is_compiled_by_xla,
            )
            for loss in losses:
                self.add_loss(loss)
        self._health.report_predictions(predictions)
        if training:
            self._keep_state(start, carry)
        return predictions

    def _asserting(self, function: Callable, inputs: dict[str, Any]):
        """Calls a function; the graph raises what it reports."""
        with self._health.collecting() as report:
            predictions = function(inputs)
        checks = report.assertions(self._support_rule(inputs))
        with tf.control_dependencies(checks):
            return keras.tree.map_structure(tf.identity, predictions)

    def trajectory(self, inputs: dict[str, Any], steps: int | None = None):
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

    def _trajectory_of_each(self, function: Callable, inputs: dict[str, Any]):
        """Returns trajectories that are computed one after another."""
        swap = functools.partial(keras.tree.map_structure, _swap_first_axes)
        return swap(self._each_task(lambda x: swap(function(x)), inputs))

    def _trajectory(self, inputs: dict[str, Any], steps: int):
        episode = Episode.from_inputs(inputs, self.model)
        start = self._inner_loop.start(episode.tasks)
        first, _ = self._predict_query(episode, start, False)
        first = keras.tree.map_structure(_with_first_axis, first)
        _, outputs = self._unroll(episode, start, steps, False, True)
        if outputs is None:
            return first
        predictions, notes = keras.tree.map_structure(
            lambda y, ys: tf.concat([y, ys], axis=0), detach(first), outputs[1]
        )
        return attach(predictions, notes)

    def adapt(
        self,
        support_x,
        support_y,
        steps: int | None = None,
        sample_weight=None,
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
        # The learner has one loss, so lists of labels are rows of an array.
        support_y = as_tensor("support_y", support_y)
        if not support_y.shape.rank:
            raise ValueError(
                "`support_y` must hold a label for each example, [n, ...]. "
                f"Received: support_y={support_y.numpy()!r}"
            )
        inputs = {
            "support_x": support_x,
            "support_y": support_y,
            "query_x": support_x,
        }
        if sample_weight is not None:
            inputs["support_sample_weight"] = sample_weight
        inputs = keras.tree.map_structure(
            lambda x: x[tf.newaxis], as_tensors(inputs)
        )
        episode = Episode.from_inputs(inputs, self.model)
        start = self._inner_loop.start(episode.tasks)
        carry, _ = self._reported(
            lambda _: self._unroll(episode, start, steps, False),
            episode.as_inputs(),
            functools.partial(self._health.check, inputs=inputs),
        )
        return clone_model(
            self.model, self._inner_loop.one_task(carry, episode.support_x)
        )

    def _number_of_steps(self, training: bool) -> int:
        if training or self.evaluation_steps is None:
            return self.steps
        return self.evaluation_steps

    def _unroll(
        self,
        episode: Episode,
        start: Carry,
        steps: int,
        training: bool,
        every_step: bool = False,
    ):
        """Runs the inner loop from `start`.

        Returns:
            The last `Carry`, and the outputs of all steps: the inner losses
            before each step, `[steps, tasks]`, and with `every_step` the
            predictions for the query sets after it.
        """
        require_same_choice(
            self.model, self.adapt_spec, self._inner_loop.task_batched.adapted
        )
        self._health.count_tasks(episode.tasks)
        rule = self._support_rule(episode.as_inputs())
        if rule is not None:
            self._health.report_labels(episode.support_y, rule)
        valid = episode.with_valid_labels(rule)
        structure = valid.as_inputs()
        variables = self._used_variables()
        values = [tf.convert_to_tensor(v.value) for v in variables]
        length = self._segment_length(steps, training)
        shared = None
        # The gradient of a segment reaches only what it is given.
        if length is None:
            with keras.StatelessScope(zip(variables, values, strict=True)):
                shared = self._share(valid, start, steps, training)

        def step(i, carry, constants):
            values, inputs = constants
            with keras.StatelessScope(zip(variables, values, strict=True)):
                return self._step_and_outputs(
                    Episode(**keras.tree.pack_sequence_as(structure, inputs)),
                    i,
                    Carry(*carry),
                    training,
                    every_step,
                    shared,
                )

        carry, outputs = checkpointed_unroll(
            step,
            tuple(start),
            (values, keras.tree.flatten(structure)),
            steps,
            length,
            lay_out=training and not self.first_order,
            xla=self._is_compiled_by_xla,
        )
        if outputs is not None:
            self._health.report_inner_losses(outputs[0])
        carry = Carry(*carry)
        weights, rule_state = self.update_rule.final(
            carry.weights, carry.rule_state
        )
        self._health.report_weights(weights, steps)
        return carry._replace(weights=weights, rule_state=rule_state), outputs

    def _share(self, episode: Episode, start: Carry, steps: int, training):
        """Computes what the steps have in common, see `InnerLoop.share`."""
        first = self._support_of_step(episode, 0)
        if steps < 2 or first.x is not episode.support_x:
            return None
        return self._inner_loop.share(
            start,
            first.x,
            training=training,
            first_order=self.first_order,
            xla=self._is_compiled_by_xla,
        )

    def _step_and_outputs(
        self, episode, i, carry: Carry, training: bool, every_step, shared
    ):
        """Takes step `i`; returns the new carry, a tuple, and the outputs."""
        carry, losses = self._step(episode, i, carry, training, shared)
        # They are only looked at; a loop would still backpropagate zeros.
        losses = tf.stop_gradient(losses)
        if not every_step:
            return tuple(carry), (losses,)
        points = carry.weights
        weights, _ = self.update_rule.final(points, carry.rule_state)
        predictions, carry = self._predict_query(
            episode, carry._replace(weights=weights), training
        )
        carry = carry._replace(weights=points)
        return tuple(carry), (losses, detach(predictions))

    def _used_variables(self) -> list[keras.Variable]:
        """Returns the learned variables that the steps of the loop read."""
        adapted = {id(v) for v in self._inner_loop.task_batched.adapted}
        return [v for v in self.trainable_variables if id(v) not in adapted]

    def _segment_length(self, steps: int, training: bool) -> int | None:
        if not training or (self.first_order and self.checkpoint == "auto"):
            return None
        return segment_length(self.checkpoint, steps)

    def _step(
        self, episode: Episode, i, carry: Carry, training: bool, shared=None
    ):
        """Takes step `i`; returns the new carry and the losses, `[tasks]`."""
        return self._inner_loop.step(
            carry,
            self._support_of_step(episode, i),
            self._resolved_inner_loss,
            training=training,
            first_order=self.first_order,
            xla=self._is_compiled_by_xla,
            shared=shared,
        )

    def _support_of_step(self, episode: Episode, i: int | tf.Tensor) -> Support:
        """Returns what step `i` learns from."""
        return Support(
            episode.support_x,
            episode.support_y,
            episode.support_sample_weight,
        )

    def _predict_query(self, episode: Episode, carry: Carry, training: bool):
        """Returns predictions for the query sets and the new carry."""
        predictions, carry, _ = self._inner_loop.predict(
            carry,
            episode.support_x,
            episode.query_x,
            training=training,
            xla=self._is_compiled_by_xla,
        )
        return predictions, carry

    def _keep_state(self, start: Carry, end: Carry) -> None:
        """Keeps what the step changed, unless the step failed."""
        changes = [
            Change(variable, old, new)
            for variable, old, new in zip(
                self._inner_loop.task_batched.state_variables,
                start.state,
                end.state,
                strict=True,
            )
            if new is not old
        ]
        self._model_state.change(changes, self._health.is_ok)

    @property
    def _is_compiled_by_xla(self) -> bool:
        plan = self._plan.value
        if plan.exporting or not plan.xla or not self.compiled:
            return False
        return bool(self.jit_compile)

    @property
    def _resolved_inner_loss(self) -> InnerLoss:
        loss = self.inner_loss
        if loss is None and self.compiled:
            loss = self.loss
        if loss is None:
            raise ValueError(
                "The inner loop needs a loss. Call `compile(loss=...)` or "
                "pass `inner_loss=` to the constructor."
            )
        return as_inner_loss(loss)

    # Saving and serving.

    def export(
        self,
        filepath: str,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: dict[str, Any] | None = None,
    ) -> None:
        """Writes a SavedModel that adapts where it is served.

        Its `serve` endpoint and its signatures take support and query sets
        of any number of tasks, shots and queries and return predictions for
        the query sets, after the inner steps of evaluation.

        Args:
            filepath: The folder to write.
            format: `"tf_saved_model"`; other formats hold no gradients.
            verbose: Whether to print the endpoint.
            input_signature: A dict of `tf.TensorSpec` as `call` takes it; by
                default made from the model's input and output shapes.

        Example:
        ```python
        learner.export("served")
        served = tf.saved_model.load("served")
        served.serve({"support_x": ..., "support_y": ..., "query_x": ...})
        ```
        """
        if not isinstance(format, str) or format != "tf_saved_model":
            raise ValueError(
                "A meta-learner takes gradients where it is served, which "
                "only a SavedModel can hold. Received: "
                f"format={describe(format)}; use format='tf_saved_model'."
            )
        if input_signature is None:
            input_signature = default_signature(
                self.model, self._resolved_inner_loss.is_sparse
            )

        def serve(inputs):
            with self._plan.changing(exporting=True):
                return self(inputs, training=False)

        archive = keras.export.ExportArchive()
        archive.track(self)
        archive.add_endpoint("serve", serve, input_signature=[input_signature])
        archive.write_out(filepath, verbose=verbose)

    def save_own_variables(self, store) -> None:
        """Saves what belongs to no layer; warns of what a file loses."""
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
            "first_order": self.first_order,
            "checkpoint": self.checkpoint,
            "batch_statistics": self.batch_statistics,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]):
        """Makes a learner from `get_config`'s dict."""
        config = dict(config)
        for key in ("model", "update_rule", "inner_loss", "adapt"):
            if isinstance(config.get(key), dict):
                config[key] = keras.saving.deserialize_keras_object(config[key])
        return cls(**config)


def _with_first_axis(x: tf.Tensor) -> tf.Tensor:
    return map_annotated(lambda y: y[tf.newaxis], x)


def _is_symbolic(inputs: dict[str, Any]) -> bool:
    leaves = keras.tree.flatten(inputs)
    return any(isinstance(x, keras.KerasTensor) for x in leaves)


def _swap_first_axes(x: tf.Tensor) -> tf.Tensor:
    return map_annotated(
        lambda y: tf.transpose(y, [1, 0, *range(2, y.shape.rank)]), x
    )
