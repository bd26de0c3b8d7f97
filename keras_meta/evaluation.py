"""Means over test tasks with confidence intervals."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from keras_meta.checks import check_at_least
from keras_meta.learners.learner import Learner
from keras_meta.learners.temporarily import temporarily
from keras_meta.unroll.inner_loss import InnerLoss

# Two-sided 95 % quantile of the normal distribution.
_QUANTILE = 1.96


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over tasks and its 95 % confidence interval.

    Attributes:
        mean: The mean.
        half_width: Half the width of the interval: 1.96 standard errors of
            the mean.
        tasks: Number of tasks.

    Example:
    >>> str(Interval(0.987, 0.004, 1000).percent)
    '98.70 ± 0.40'
    """

    mean: float
    half_width: float
    tasks: int

    @property
    def percent(self) -> Interval:
        """The interval in percent, of a quantity in 0..1."""
        return Interval(100 * self.mean, 100 * self.half_width, self.tasks)

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}} ± {self.half_width:{spec}}"

    def __str__(self) -> str:
        decimals = 2
        if math.isfinite(self.half_width) and self.half_width > 0:
            # Two digits of the half width tell something.
            decimals = max(0, 1 - math.floor(math.log10(self.half_width)))
        return format(self, f".{decimals}f")


@dataclasses.dataclass(frozen=True)
class Curve:
    """Means over tasks after each inner step, with 95 % intervals.

    Attributes:
        mean: `[steps + 1]`, the first of the unadapted initialization.
        half_width: Half the widths of the intervals, `[steps + 1]`.
        tasks: Number of tasks.
    """

    mean: np.ndarray
    half_width: np.ndarray
    tasks: int

    def __getitem__(self, step: int) -> Interval:
        """Returns the interval after a number of steps."""
        return Interval(
            float(self.mean[step]), float(self.half_width[step]), self.tasks
        )


def evaluate_tasks(
    learner: keras.Model,
    episodes: tf.data.Dataset,
    tasks: int = 1000,
    steps: int | None = None,
) -> dict[str, Interval]:
    """Evaluates a learner task by task.

    The loss and every compiled metric are computed for each task's query set
    alone; intervals are those of the mean over tasks. Regularizers do not
    count.

    Args:
        learner: A compiled meta-learner.
        episodes: Data set of `(x, query_y)` as for `learner.evaluate`,
            batches of any number of tasks.
        tasks: How many tasks to draw, at least 2; the last batch is cut.
        steps: Number of inner steps; by default the learner's own for
            evaluation.

    Returns:
        An `Interval` for `"loss"` and for each metric's name.

    Raises:
        ValueError: If an argument is out of range, the learner is not
            compiled or has several outputs, or the data set ends early.

    Example:
    ```python
    result = keras_meta.evaluate_tasks(learner, episodes, tasks=1000)
    print(result["accuracy"].percent)  # 98.70 ± 0.40
    ```
    """
    return TaskEvaluator(learner, steps).evaluate(episodes, tasks)


def adaptation_curve(
    learner: Learner,
    episodes: tf.data.Dataset,
    tasks: int = 600,
    steps: int = 10,
) -> dict[str, Curve]:
    """Evaluates a learner after each inner step.

    A learner trained for few steps may diverge when it takes many; from
    where some task is not finite, the means are infinite or NaN.

    Args:
        learner: A compiled meta-learner.
        episodes: See `evaluate_tasks`.
        tasks: See `evaluate_tasks`.
        steps: Number of inner steps, also more than in training.

    Returns:
        A `Curve` for `"loss"` and for each metric's name.

    Raises:
        ValueError: See `evaluate_tasks`.

    Example:
    ```python
    curve = keras_meta.adaptation_curve(learner, episodes, steps=10)
    print(curve["accuracy"].mean)  # before, and after 1, 2, ..., 10 steps
    ```
    """
    predict = _compiled(learner, lambda x: learner.trajectory(x, steps))
    values = _values_of_tasks(
        learner, predict, episodes, tasks, may_diverge=True
    )
    return {
        name: Curve(*_mean_and_half_width(value), tasks)
        for name, value in values.items()
    }


class TaskEvaluator:
    """`evaluate_tasks` for repeated use: compiles once.

    Args:
        learner: See `evaluate_tasks`.
        steps: See `evaluate_tasks`.

    Raises:
        ValueError: If `steps` is given and the learner takes no steps.
    """

    def __init__(self, learner: keras.Model, steps: int | None = None):
        if steps is not None and not isinstance(learner, Learner):
            raise ValueError(
                "`steps` needs a learner with an inner loop. Received: "
                f"steps={steps} and a {type(learner).__name__}. Leave "
                "`steps` out."
            )

        def predict(x):
            with _evaluation_steps(learner, steps):
                outputs = learner(x, training=False)
            return keras.tree.map_structure(lambda y: y[tf.newaxis], outputs)

        self._learner = learner
        self._predict = _compiled(learner, predict)

    def evaluate(
        self, episodes: tf.data.Dataset, tasks: int = 1000
    ) -> dict[str, Interval]:
        """Evaluates; see `evaluate_tasks`."""
        values = _values_of_tasks(self._learner, self._predict, episodes, tasks)
        statistics = {
            name: _mean_and_half_width(value) for name, value in values.items()
        }
        return {
            name: Interval(float(mean[0]), float(half_width[0]), tasks)
            for name, (mean, half_width) in statistics.items()
        }


def _evaluation_steps(learner: keras.Model, steps: int | None):
    if steps is None:
        return contextlib.nullcontext()
    return temporarily(learner, "evaluation_steps", steps)


def _compiled(learner: keras.Model, function):
    if not learner.compiled:
        raise ValueError(
            "The learner must be compiled: call `compile(loss=..., "
            "metrics=...)` with what is to be measured."
        )
    if learner.run_eagerly:
        return function
    if isinstance(learner, Learner):
        # It decides what XLA compiles.
        function = functools.partial(learner._in_fastest_way, function)
        return tf.function(function, autograph=False, reduce_retracing=True)
    return tf.function(
        function,
        autograph=False,
        jit_compile=learner.jit_compile,
        reduce_retracing=True,
    )


def _values_of_tasks(
    learner: keras.Model,
    predict,
    episodes: tf.data.Dataset,
    tasks: int,
    may_diverge: bool = False,
) -> dict[str, np.ndarray]:
    """Returns `[steps, tasks]` of the loss and each metric."""
    # One task has no interval.
    check_at_least(2, tasks=tasks)
    parts = [
        _measure(learner, y, predictions)
        for y, predictions in _predictions(
            learner, predict, episodes, tasks, may_diverge
        )
    ]
    return {
        name: np.concatenate([part[name] for part in parts], axis=1)[:, :tasks]
        for name in parts[0]
    }


def _predictions(
    learner: keras.Model,
    predict,
    episodes: tf.data.Dataset,
    tasks: int,
    may_diverge: bool,
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Yields labels and predictions until there are enough tasks."""
    done = 0
    for batch in episodes:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        if sample_weight is not None:
            raise ValueError(
                "`episodes` must yield `(x, query_y)`. Received a third "
                "part; weights of query examples are not supported here. "
                "Drop them with `episodes.map(lambda x, y, w: (x, y))`."
            )
        ignored = FloatingPointError if may_diverge else ()
        with contextlib.suppress(ignored), _watched(learner):
            predictions = predict(x)
        if keras.tree.is_nested(predictions):
            raise ValueError(
                "The learner must have one output. Received: "
                f"{type(predictions).__name__}. Use `learner.evaluate`."
            )
        y = tf.convert_to_tensor(y)
        if isinstance(learner, Learner):
            learner.check_query_labels(y)
        yield y, predictions
        done += y.shape[0]
        if done >= tasks:
            return
    raise ValueError(
        f"`episodes` ended after {done} tasks; tasks={tasks} were asked for. "
        "Make the data set longer or endless, or ask for fewer."
    )


@contextlib.contextmanager
def _watched(learner: keras.Model) -> Iterator[None]:
    """Raises on what a learner reports meanwhile."""
    if not isinstance(learner, Learner):
        yield
        return
    with learner._watched():
        yield
    learner._check_health()


def _measure(
    learner: keras.Model, y: tf.Tensor, predictions: tf.Tensor
) -> dict[str, np.ndarray]:
    """Returns `[steps, tasks]` of the loss and each metric.

    Args:
        learner: The learner.
        y: Labels, `[tasks, q, ...]`.
        predictions: `[steps, tasks, q, ...]`.
    """
    loss = InnerLoss(learner.loss, labels="query_y")
    values = {"loss": [loss(y, p).numpy() for p in predictions]}
    for metric in _metrics(learner, y, predictions[0]):
        values[metric.name] = [_metric(metric, y, p) for p in predictions]
    return {name: np.stack(value) for name, value in values.items()}


def _metrics(
    learner: keras.Model, y: tf.Tensor, y_pred: tf.Tensor
) -> list[keras.metrics.Metric]:
    compiled = learner._compile_metrics
    if compiled is None:
        return []
    if not compiled.built:
        compiled.build(y, y_pred)
    return compiled.metrics


def _metric(
    metric: keras.metrics.Metric, y: tf.Tensor, y_pred: tf.Tensor
) -> np.ndarray:
    """Returns a metric of each task, `[tasks]`."""
    if not _is_mean_over_examples(metric):
        return _metric_task_by_task(metric, y, y_pred)
    values = tf.convert_to_tensor(metric._fn(y, y_pred, **metric._fn_kwargs))
    values = tf.cast(values, tf.float32)
    return tf.reduce_mean(values, list(range(1, values.shape.rank))).numpy()


def _is_mean_over_examples(metric: keras.metrics.Metric) -> bool:
    """Whether a metric is the mean of a function known to be example-wise."""
    wrapper = keras.metrics.MeanMetricWrapper
    return (
        isinstance(metric, wrapper)
        and type(metric).update_state is wrapper.update_state
        and type(metric).result is wrapper.result
        and getattr(metric._fn, "__module__", "").startswith("keras.")
    )


def _metric_task_by_task(
    metric: keras.metrics.Metric, y: tf.Tensor, y_pred: tf.Tensor
) -> np.ndarray:
    # A running `fit` may own what the metric has accumulated.
    before = [variable.numpy() for variable in metric.variables]
    values = []
    for task_y, task_y_pred in zip(y, y_pred, strict=True):
        metric.reset_state()
        metric.update_state(task_y, task_y_pred)
        values.append(float(metric.result()))
    for variable, value in zip(metric.variables, before, strict=True):
        variable.assign(value)
    return np.array(values, np.float32)


def _mean_and_half_width(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns `[steps]` each of values `[steps, tasks]`."""
    values = values.astype(np.float64)
    # Tasks that diverged make both infinite or NaN.
    with np.errstate(invalid="ignore", over="ignore"):
        deviation = values.std(axis=1, ddof=1)
        mean = values.mean(axis=1)
    return mean, _QUANTILE * deviation / math.sqrt(values.shape[1])
