"""One forward pass of a Keras model for all tasks, with weights per task."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import keras
import tensorflow as tf
from absl import logging

from keras_meta._keras import is_traced_for_xla
from keras_meta.batching import task_axis
from keras_meta.batching.annotations import split_tasks
from keras_meta.batching.batch_axis import is_batched_throughout
from keras_meta.batching.layer_calls import own_variables
from keras_meta.batching.layer_rules import find_rule
from keras_meta.batching.layer_rules.convolution import has_all_kernels
from keras_meta.batching.shared_calls import SharedCalls
from keras_meta.batching.task_scope import LostGradient
from keras_meta.batching.task_scope import TaskScope
from keras_meta.kernels.second_order import differentiate
from keras_meta.kernels.second_order import refuse_wrong_derivatives


@dataclasses.dataclass(frozen=True)
class TaskOutputs:
    """What a task-batched call returns.

    Attributes:
        outputs: The model's outputs, nested as the model nests them, each
            `[tasks, n, ...]`.
        state: New values of `TaskBatched.state_variables`.
        statistics: Batch statistics that normalization layers used, as
            `TaskBatched` accepts them.
        losses: Scalars that layers added: activity regularizers and
            `add_loss`.
    """

    outputs: tf.Tensor
    state: list[tf.Tensor]
    statistics: dict
    losses: list[tf.Tensor]


class TaskBatched:
    """Calls a Keras model once for all tasks, each with its own weights.

    Tasks are merged into the batch axis and the model is called as it is.
    Leaf layers that own adapted weights compute by a layer rule; those
    without a rule are called once per task, which is exact and slower. With
    one task and without XLA, layers run their own code if TensorFlow can
    differentiate it twice.

    Args:
        model: A built Keras model of any kind. Neither it nor its layers are
            changed, see `layer_calls`.
        adapted: The variables that have one value per task.

    Example:
    ```python
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(3)])
    batched = TaskBatched(model, model.trainable_variables)
    weights = [tf.stack([v, 2 * v]) for v in model.trainable_variables]
    x = tf.ones([2, 5, 2])  # two tasks, five examples
    y = batched(weights, batched.initial_state(), x).outputs  # [2, 5, 3]
    ```
    """

    def __init__(self, model: keras.Model, adapted: Sequence[keras.Variable]):
        self.model = model
        self.adapted = list(adapted)
        self._adapted_ids = {id(v) for v in self.adapted}
        self._per_task: dict[int, list[keras.Variable]] = {}
        self._probed: set[bool] = set()
        self._averages = {
            id(v): layer
            for layer in self.layers
            if isinstance(layer, keras.layers.BatchNormalization)
            and find_rule(layer)
            for v in layer.non_trainable_variables
        }
        within_fallback: set[int] = set()
        for layer in self.layers:
            if id(layer) not in within_fallback and self._needs_fallback(layer):
                self._fall_back(layer, "it has no rule")
                within_fallback.update(map(id, layer._flatten_layers()))

    @property
    def has_fallback(self) -> bool:
        """Whether some layer is called once per task."""
        return bool(self._per_task)

    @functools.cached_property
    def can_call_alone(self) -> bool:
        """Whether one task can be computed without rules."""
        return all(map(has_all_kernels, self.model._flatten_layers()))

    @functools.cached_property
    def _is_batched(self) -> bool:
        return is_batched_throughout(self.model)

    @property
    def state_variables(self) -> list[keras.Variable]:
        """The model's non-trainable variables that do not adapt."""
        return [
            v
            for v in self.model.non_trainable_variables
            if id(v) not in self._adapted_ids
        ]

    @property
    def has_common_layers(self) -> bool:
        """Whether some layer has weights and adapts none of them."""
        return any(
            variables and not self._owns_adapted(variables)
            for variables in map(own_variables, self.model._flatten_layers())
        )

    @property
    def layers(self) -> list[keras.Layer]:
        """All layers of the model, nested ones included."""
        return self.model._flatten_layers()

    def initial_state(self) -> list[tf.Tensor]:
        """Returns the values of `state_variables`."""
        return [tf.convert_to_tensor(v.value) for v in self.state_variables]

    @tf.autograph.experimental.do_not_convert
    def __call__(
        self,
        weights: Sequence[tf.Tensor],
        state: Sequence[tf.Tensor],
        inputs,
        *,
        training: bool = False,
        statistics: str | dict = "batch",
        second_order: bool = True,
        xla: bool = False,
        shared: SharedCalls | None = None,
    ) -> TaskOutputs:
        """Computes the model's outputs for every task.

        Args:
            weights: Values of the adapted variables, `[tasks, *shape]` each.
            state: Values of `state_variables`.
            inputs: The model's inputs, nested as it expects them, each
                `[tasks, n, ...]`.
            training: Passed to the model.
            statistics: `"batch"`, `"running"`, or recorded statistics; see
                `TaskScope`.
            second_order: Whether a second derivative will be taken; then
                operations whose second derivative is wrong are refused.
            xla: Whether the call will be compiled by XLA.
            shared: Keeps what layers return that compute the same in other
                calls on the same inputs.

        Returns:
            A `TaskOutputs`.
        """
        options = {
            "training": training,
            "statistics": statistics,
            "second_order": second_order,
            "xla": xla,
        }
        # Operations can be checked only in a graph.
        unchecked = second_order and tf.executing_eagerly()
        is_known = self._probed or self._is_batched
        if not is_known or (unchecked and True not in self._probed):
            self._probe(weights, state, inputs, options, unchecked)
            self._probed.add(second_order)
        if shared is not None and not shared.is_for(inputs):
            shared = None
        return self._call(weights, state, inputs, shared=shared, **options)

    def _probe(
        self, weights, state, inputs, options, check_gradients: bool
    ) -> None:
        """Traces the call once with all sizes of the batch left open.

        With the batch's size known, an input of a layer that merely has the
        same size could be taken for one with a batch axis. Some models rule
        that out, see `is_batched_throughout`.
        """

        def open_sizes(axes):
            return lambda x: tf.TensorSpec(
                [None] * axes + x.shape.as_list()[axes:], x.dtype
            )

        def trace(weights, inputs):
            def call():
                outputs = self._call(weights, state, inputs, **options).outputs
                return _stand_in_loss(outputs), outputs

            if not check_gradients:
                return call()
            return differentiate(call, weights, again=True, layers=self.layers)

        tf.function(trace, autograph=False).get_concrete_function(
            keras.tree.map_structure(open_sizes(1), list(weights)),
            keras.tree.map_structure(open_sizes(2), inputs),
        )

    def _call(
        self, weights, state, inputs, *, second_order, xla, **options
    ) -> TaskOutputs:
        first = keras.tree.flatten(inputs)[0]
        tasks = task_axis.size(first, 0)
        xla = xla or is_traced_for_xla()
        # One task needs no batching, and XLA compiles batched products into
        # faster code than convolutions.
        is_one = isinstance(tasks, int) and tasks == 1
        alone = is_one and not xla and self.can_call_alone
        merged = keras.tree.map_structure(task_axis.merge, inputs)
        variables = self.state_variables
        while True:
            scope = TaskScope(
                tasks=tasks,
                weights={
                    id(v): tf.reshape(w, w.shape[1:]) if alone else w
                    for v, w in zip(self.adapted, weights, strict=True)
                },
                state=list(zip(variables, state, strict=True)),
                batch=keras.tree.flatten(merged)[0].shape[0],
                per_task=self._per_task,
                second_order=second_order,
                xla=xla,
                single=alone,
                averages=self._averages,
                **options,
            )
            try:
                with (
                    refuse_wrong_derivatives(second_order, xla, self.layers),
                    scope,
                ):
                    outputs = self.model(merged, training=options["training"])
                break
            except LostGradient as error:
                raise ValueError(str(error)) from None
            except Exception:
                # Keras may wrap the exception, so the scope holds the cause.
                if scope.stray is None or not self._mend(*scope.stray):
                    raise
        return TaskOutputs(
            keras.tree.map_structure(
                functools.partial(split_tasks, tasks=tasks), outputs
            ),
            [scope.get_current_value(v) for v in variables],
            scope.recorded,
            scope.losses,
        )

    def _mend(self, layer, variable) -> bool:
        """Lets a layer that made a stray read fall back, if that helps."""
        if layer is None:
            return False
        fresh = id(layer) not in self._per_task
        if fresh:
            self._fall_back(layer, f"its call uses {variable.path} itself")
        also = self._per_task[id(layer)]
        known = [*layer.variables, *also]
        if any(v is variable for v in known):
            return fresh
        also.append(variable)
        return True

    def _needs_fallback(self, layer: keras.Layer) -> bool:
        if isinstance(layer, keras.layers.RNN):
            return self._owns_adapted(layer.variables)
        noise_shape = getattr(layer, "noise_shape", None)
        if noise_shape is not None and noise_shape[0] is not None:
            return True
        return find_rule(layer) is None and self._owns_adapted(
            own_variables(layer)
        )

    def _owns_adapted(self, variables) -> bool:
        return any(id(v) in self._adapted_ids for v in variables)

    def _fall_back(self, layer: keras.Layer, reason: str):
        self._per_task[id(layer)] = []
        logging.info(
            "keras_meta calls layer '%s' (%s) once per task, which is exact "
            "and slower: %s.",
            layer.name,
            type(layer).__name__,
            reason,
        )


def _stand_in_loss(outputs) -> tf.Tensor:
    """Returns a loss whose gradient by any output depends on the output."""
    floats = [y for y in keras.tree.flatten(outputs) if y.dtype.is_floating]
    squares = [tf.reduce_sum(tf.square(y)) for y in floats]
    return tf.add_n([tf.cast(y, tf.float32) for y in squares])
