"""The meta-training step, and the functions that Keras runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

import keras
import tensorflow as tf
from keras.src.trainers.trainer import model_supports_jit

from keras_meta.learners import many_steps
from keras_meta.learners import task_blocks
from keras_meta.learners.endless import refuses_endless
from keras_meta.learners.episode import Episode
from keras_meta.learners.episode import check_query
from keras_meta.learners.health import Health
from keras_meta.learners.health import can_learn_from
from keras_meta.unroll import task_axis
from keras_meta.unroll.inner_loss import averages_examples
from keras_meta.unroll.inner_loss import check_shapes
from keras_meta.unroll.inner_loss import keras_mask


class MetaGradient(NamedTuple):
    """What a step computes from its tasks, before it changes anything.

    Attributes:
        gradients: One for each trainable variable, or `None`.
        loss: The outer loss, a scalar.
        predictions: The predictions for the query sets, `[tasks, q, ...]`.
    """

    gradients: list[tf.Tensor | None]
    loss: tf.Tensor
    predictions: Any


class Blocks(NamedTuple):
    """How a step takes its tasks.

    Attributes:
        size: Tasks at a time.
        jit_compile: Whether XLA compiles what is done with them.
    """

    size: int
    jit_compile: bool


class MetaTraining(keras.Model):
    """The half of a `Learner` that turns its `call` into training.

    On a CPU, XLA compiles a step on a large meta-batch in blocks of tasks,
    see `task_blocks`, where the loss is a mean over tasks and they share no
    state; the step is the same up to rounding. Large tasks for a convolutional
    network are taken one by one and without XLA, which is slower there.

    It uses `model`, `_inner_loop`, `_resolved_inner_loss` and `_exporting`
    of the other half.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._health = Health()
        self._is_watched = False
        self._avoids_xla = False

    fit = refuses_endless(keras.Model.fit)
    evaluate = refuses_endless(keras.Model.evaluate)
    predict = refuses_endless(keras.Model.predict)

    def train_step(self, data):
        """Takes one meta-training step on a batch of tasks."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        self._check_query(x, y, sample_weight)
        x = self._prepare(x)
        if tf.executing_eagerly() or not self._compiles_itself:
            return self._whole_step(x, y, sample_weight)
        blocks = self._blocks(x, y, sample_weight)
        if blocks is not None:
            try:
                return self._step_in_blocks(x, y, sample_weight, blocks)
            except task_blocks.Inseparable:
                pass
        whole = tf.function(self._whole_step, autograph=False, jit_compile=True)
        return whole(x, y, sample_weight)

    def test_step(self, data):
        """Evaluates a batch of tasks."""
        self._check_query(*keras.utils.unpack_x_y_sample_weight(data))
        return super().test_step(data)

    def _check_query(self, x, y, sample_weight) -> None:
        """Refuses labels and weights that are not those of the query sets."""
        check_query(x, y, sample_weight)
        shape = getattr(self.model, "output_shape", None)
        is_one = isinstance(shape, tuple) and not keras.tree.is_nested(y)
        if is_one and (isinstance(self.loss, str) or callable(self.loss)):
            y = tf.convert_to_tensor(y)
            predictions = tf.TensorShape([*y.shape[:2], *shape[1:]])
            check_shapes(self.loss, "query_y", y.shape, predictions)

    @property
    def _compiles_itself(self) -> bool:
        """Whether `train_step` decides what XLA compiles.

        A subclass's own step is compiled as a whole, as Keras does it.
        """
        is_own = type(self).train_step is MetaTraining.train_step
        return is_own and bool(self.jit_compile)

    @property
    def _takes_many_steps(self) -> bool:
        """Whether XLA may compile all steps of an execution as one loop."""
        return (
            self.steps_per_execution > 1
            and self._compiles_itself
            and not self._is_distributed
        )

    @property
    def _is_distributed(self) -> bool:
        made_in = self._distribute_strategy
        return made_in is not None or tf.distribute.has_strategy()

    def _prepare(self, x: dict[str, Any]) -> dict[str, Any]:
        """Returns the inputs that a step learns from."""
        return x

    def _whole_step(self, x, y, sample_weight):
        result = self._meta_gradient(x, y, sample_weight)
        return self._apply(x, y, sample_weight, result)

    def _step_in_blocks(self, x, y, sample_weight, blocks: Blocks):
        learned = []

        def block(*arguments):
            with (
                self._health.collecting() as report,
                self._avoiding_xla(not blocks.jit_compile),
            ):
                result = self._meta_gradient(*arguments)
            self._require_mean_losses(result.predictions)
            learned[:] = [g is not None for g in result.gradients]
            gradients = [g for g in result.gradients if g is not None]
            return (gradients, result.loss), (result.predictions, report.value)

        (gradients, loss), (predictions, reports) = task_blocks.map_blocks(
            block,
            blocks.size,
            (x, y, sample_weight),
            jit_compile=blocks.jit_compile,
        )
        self._health.merge(reports, blocks.size)
        number = reports.shape[0]
        means = iter(g / number for g in gradients)
        result = MetaGradient(
            [next(means) if is_learned else None for is_learned in learned],
            loss / number,
            keras.tree.map_structure(task_axis.merge, predictions),
        )
        return self._apply(x, y, sample_weight, result)

    @contextlib.contextmanager
    def _avoiding_xla(self, avoids: bool) -> Iterator[None]:
        """Tells what is traced meanwhile whether XLA will not compile it."""
        before, self._avoids_xla = self._avoids_xla, avoids
        try:
            yield
        finally:
            self._avoids_xla = before

    def _blocks(self, x, y, sample_weight) -> Blocks | None:
        """Returns how to take the tasks, or `None` for all at once by XLA.

        The mean over blocks must be the mean over tasks, so the loss has to
        be one that is known to treat every example alone.
        """
        if type(self).compute_loss is not keras.Model.compute_loss:
            return None
        if not averages_examples(self.loss, sample_weight is not None):
            return None
        sizes = _sizes(x, y)
        if sizes is None:
            return None
        tasks, shots, queries = sizes
        bytes_per_task = task_blocks.working_set(
            self.model, x["support_x"], shots + queries
        )
        if task_blocks.is_faster_plain(self.model, bytes_per_task):
            return Blocks(1, jit_compile=False)
        size = task_blocks.block_size(tasks, bytes_per_task)
        return None if size is None else Blocks(size, jit_compile=True)

    def _require_mean_losses(self, predictions) -> None:
        """Refuses a loss that is no mean over tasks that count alike.

        Losses that layers add may be sums over tasks, and a mask changes
        what a mean divides by.
        """
        if any(
            keras_mask(y) is not None for y in keras.tree.flatten(predictions)
        ):
            raise task_blocks.Inseparable("predictions have a mask")
        variables = self.trainable_variables
        regularized = [v for v in variables if v.regularizer is not None]
        if len(self.losses) > len(regularized):
            raise task_blocks.Inseparable("layers add losses")

    def _meta_gradient(self, x, y, sample_weight) -> MetaGradient:
        """Returns what the tasks say about the learned weights."""
        with tf.GradientTape() as tape:
            y_pred, loss = self._outer_loss(x, y, sample_weight)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        return MetaGradient(list(map(_densify, gradients)), loss, y_pred)

    def _outer_loss(self, x, y, sample_weight):
        """Returns predictions for the query sets and the loss to minimize."""
        y_pred = self(x, training=True)
        loss = self._compute_loss(
            x=x,
            y=y,
            y_pred=y_pred,
            sample_weight=sample_weight,
            training=True,
        )
        return y_pred, loss

    def _apply(self, x, y, sample_weight, result: MetaGradient):
        """Updates the learned weights; returns the step's logs."""
        self._health.report_outer(
            can_learn_from(result.loss, result.gradients, self.optimizer)
        )
        # A step that failed leaves the weights finite.
        is_ok = self._health.is_ok
        gradients = [
            g if g is None else tf.where(is_ok, g, tf.zeros_like(g))
            for g in result.gradients
        ]
        self.optimizer.apply_gradients(
            zip(gradients, self.trainable_variables, strict=True)
        )
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        self._loss_tracker.update_state(
            result.loss * replicas,
            sample_weight=Episode.from_inputs(x).tasks,
        )
        return self.compute_metrics(x, y, result.predictions, sample_weight)

    def _resolve_auto_jit_compile(self) -> bool:
        """Tells what `compile(jit_compile="auto")` means.

        Keras leaves XLA off on the CPU; the inner loop is faster with it. It
        stays off where a layer is called once per task, which compiles
        slowly, where a layer does not support it, and where Keras cannot
        combine it with `tf.distribute`.
        """
        return (
            model_supports_jit(self)
            and not self._inner_loop.task_batched.has_fallback
            and not self._is_distributed
        )

    def make_train_function(self, force: bool = False):
        """Builds the training step, which stops on what went wrong."""
        if self.train_function is None or force:
            self._build_optimizer()
            jit_compile = self.jit_compile
            if self._compiles_itself:
                self.jit_compile = False
            try:
                super().make_train_function(force)
            finally:
                self.jit_compile = jit_compile
            function = self.train_function
            if self._takes_many_steps:
                function = self._in_one_loop(function)
            self.train_function = self._checked(function, training=True)
        return self.train_function

    def _in_one_loop(self, function):
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

    def _make_loop(self, spec):
        """Returns a function of an iterator, or `None` to take single steps."""
        chunk = many_steps.chunk_size(spec, self.steps_per_execution)
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(spec)
        if chunk is None or _sizes(x, y) is None:
            return None
        if self._blocks(x, y, sample_weight) is not None:
            return None

        def step(data):
            x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
            self._check_query(x, y, sample_weight)
            return self._whole_step(self._prepare(x), y, sample_weight)

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

    def _build_metrics(self, iterator) -> None:
        """Creates the metrics' variables, for the same reason.

        Keras creates them in the step, where it knows the predictions'
        shape; here it is known for models with one output.
        """
        metrics = self._compile_metrics
        shape = getattr(self.model, "output_shape", None)
        spec = getattr(iterator, "element_spec", None)
        if metrics is None or metrics.built or self._is_distributed:
            return
        if spec is None or not isinstance(shape, tuple):
            return
        _, y, _ = keras.utils.unpack_x_y_sample_weight(spec)
        if isinstance(y, tf.TensorSpec) and y.shape.rank and shape[1:]:
            metrics.build(
                keras.KerasTensor(y.shape, y.dtype.name),
                keras.KerasTensor([*y.shape[:2], *shape[1:]]),
            )

    def make_test_function(self, force: bool = False):
        """Builds the evaluation step, which stops on what went wrong."""
        if self.test_function is None or force:
            super().make_test_function(force)
            self.test_function = self._checked(self.test_function)
        return self.test_function

    def make_predict_function(self, force: bool = False):
        """Builds the prediction step, which stops on what went wrong."""
        if self.predict_function is None or force:
            super().make_predict_function(force)
            self.predict_function = self._checked(self.predict_function)
        return self.predict_function

    def _checked(self, function, training: bool = False):
        def call_and_check(iterator):
            self._build_metrics(iterator)
            with self._watched():
                outputs = function(iterator)
            self._check_health(training)
            return outputs

        return call_and_check

    @contextlib.contextmanager
    def _watched(self) -> Iterator[None]:
        """Tells that the host looks at the health after what is called."""
        before, self._is_watched = self._is_watched, True
        try:
            yield
        finally:
            self._is_watched = before

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Keeps failures for the host, unless it will not look.

        A loop of the user's own does not, and a failure that nobody takes
        would be that of all later steps.
        """
        if tf.executing_eagerly() or self._is_watched:
            yield
        else:
            with self._health.collecting():
                yield

    def _report_health(self, episode: Episode, losses: tf.Tensor) -> None:
        if self._exporting:
            return
        if self._resolved_inner_loss.is_sparse:
            self._health.report_labels(
                episode.support_y,
                self._ways,
                self._resolved_inner_loss.ignored_class,
            )
        self._health.report_inner_losses(losses)

    def _check_health(self, training: bool = False) -> None:
        self._health.check(self._ways, training)

    @property
    def _ways(self) -> int | None:
        shape = getattr(self.model, "output_shape", None)
        return shape[-1] if isinstance(shape, tuple) else None


def _sizes(x: Any, y: Any) -> tuple[int, int, int] | None:
    """Returns tasks, support and query examples, if all are known.

    What is no episode has none; the step tells what is wrong with it.
    """
    if not isinstance(x, dict) or not {"support_x", "support_y"} <= set(x):
        return None
    labels = [x["support_y"], keras.tree.flatten(y)[0]]
    if any(leaf is None or (leaf.shape.rank or 0) < 2 for leaf in labels):
        return None
    tasks, shots, queries = (*labels[0].shape[:2], labels[1].shape[1])
    if None in (tasks, shots, queries):
        return None
    return tasks, shots, queries


def _densify(gradient):
    return None if gradient is None else tf.convert_to_tensor(gradient)
