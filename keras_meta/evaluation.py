"""Evaluation on test tasks, with confidence intervals."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.batching.annotations import keras_mask
from keras_meta.batching.annotations import map_annotated
from keras_meta.batching.annotations import merge_tasks
from keras_meta.checks import check_at_least
from keras_meta.checks import describe
from keras_meta.execution.not_finite import arguments_not_finite
from keras_meta.inner.inner_loss import InnerLoss
from keras_meta.learners.learner import Learner
from keras_meta.learners.meta_learner import MetaLearner
from keras_meta.learners.tasks.episode import check_query
from keras_meta.learners.tasks.tensors import as_tensor

# Two-sided 95 % quantile of the standard normal distribution.
_QUANTILE = 1.96


@dataclasses.dataclass(frozen=True, eq=False)
class Interval:
    """A mean over tasks and its 95 % confidence interval.

    A metric with several values, such as one per class, has a mean and a half
    width for each. Index the interval to select one.

    Attributes:
        mean: The mean, or an array of means.
        half_width: Half the width of the interval, which is 1.96 standard
            errors of the mean, or an array of half widths.
        tasks: Number of tasks.

    Example:
    >>> str(Interval(0.987, 0.004, 1000).percent)
    '98.70 ± 0.40'
    >>> f1 = Interval(np.array([0.9, 0.8]), np.array([0.01, 0.02]), 600)
    >>> str(f1), str(f1[1])
    ('[0.900 ± 0.010, 0.800 ± 0.020]', '0.800 ± 0.020')
    """

    mean: float | np.ndarray
    half_width: float | np.ndarray
    tasks: int

    @property
    def percent(self) -> Interval:
        """The interval in percent, for a quantity between 0 and 1."""
        return Interval(100 * self.mean, 100 * self.half_width, self.tasks)

    def __getitem__(self, index: int) -> Interval:
        """Returns the interval of one of several values."""
        if not np.ndim(self.mean):
            raise TypeError(
                "An interval of a single value cannot be indexed. Received: "
                f"{self}[{index}]"
            )
        mean, half_width = map(np.asarray, (self.mean, self.half_width))
        return _interval(mean[index], half_width[index], self.tasks)

    def __len__(self) -> int:
        """Returns the number of values, if there are several."""
        return len(np.asarray(self.mean))

    def __iter__(self) -> Iterator[Interval]:
        """Yields the interval of each of several values."""
        return map(self.__getitem__, range(len(np.atleast_1d(self.mean))))

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Interval):
            return NotImplemented
        return self.tasks == other.tasks and all(
            np.array_equal(one, another)
            for one, another in (
                (self.mean, other.mean),
                (self.half_width, other.half_width),
            )
        )

    def __hash__(self) -> int:
        numbers = np.asarray([self.mean, self.half_width])
        return hash((numbers.tobytes(), self.tasks))

    def __format__(self, spec: str) -> str:
        if np.ndim(self.mean):
            return f"[{', '.join(format(part, spec) for part in self)}]"
        return f"{self.mean:{spec}} ± {self.half_width:{spec}}"

    def __str__(self) -> str:
        if np.ndim(self.mean):
            return f"[{', '.join(map(str, self))}]"
        decimals = 2
        if math.isfinite(self.half_width) and self.half_width > 0:
            # Only the first two digits of the half width are significant.
            decimals = max(0, 1 - math.floor(math.log10(self.half_width)))
        return format(self, f".{decimals}f")


@dataclasses.dataclass(frozen=True)
class Curve:
    """Means over tasks after each inner step, with 95 % intervals.

    Attributes:
        mean: Means, `[steps + 1]`, or `[steps + 1, values]` for a metric with
            several values. The first is that of the initialization.
        half_width: Half the widths of the intervals. Same shape as `mean`.
        tasks: Number of tasks.
    """

    mean: np.ndarray
    half_width: np.ndarray
    tasks: int

    def __getitem__(self, step: int) -> Interval:
        """Returns the interval after `step` steps."""
        return _interval(self.mean[step], self.half_width[step], self.tasks)


def evaluate_tasks(
    learner: keras.Model,
    episodes: tf.data.Dataset,
    tasks: int = 1000,
    steps: int | None = None,
) -> dict[str, Interval]:
    """Evaluates a learner task by task.

    The loss and every compiled metric are computed on each task's query set
    separately, `[q, ...]`. The intervals are those of the mean over tasks.
    Regularizers are not included. Compiled functions are kept until
    `learner.compile` is called again.

    Args:
        learner: A compiled meta-learner.
        episodes: Data set of `(x, query_y)` as for `learner.evaluate`, with
            any number of tasks in a batch.
        tasks: Number of tasks, at least 2. Extra tasks in the last batch are
            dropped.
        steps: Number of inner steps, at least 0. By default, the learner's
            number of steps for evaluation.

    Returns:
        An `Interval` for `"loss"` and for each metric, by the names in
        `learner.evaluate(..., return_dict=True)`. A metric with several
        values, such as `keras.metrics.F1Score(average=None)` with one per
        class, has an `Interval` with as many means. A metric whose result is
        a dict has an `Interval` for each entry.

    Raises:
        FloatingPointError: If data, or values computed from them, are not
            finite.
        ValueError: If an argument is out of range, the learner is not
            compiled or has several outputs, or the data set ends early.

    Example:
    ```python
    result = keras_meta.evaluate_tasks(learner, episodes, tasks=1000)
    print(result["accuracy"].percent)  # 98.70 ± 0.40
    ```
    """
    if steps is not None:
        check_at_least(0, steps=steps)
        _require_inner_loop(learner, f"steps={steps}", "Leave `steps` out.")
    statistics = _statistics_of_tasks(
        learner, functools.partial(_predict, learner, steps), episodes, tasks
    )
    return {
        name: _interval(mean[0], half_width[0], tasks)
        for name, (mean, half_width) in statistics.items()
    }


def adaptation_curve(
    learner: Learner,
    episodes: tf.data.Dataset,
    tasks: int = 600,
    steps: int = 10,
) -> dict[str, Curve]:
    """Evaluates a learner after each inner step.

    A learner trained with few steps may diverge when it takes many. From the
    first step at which a task is not finite, the means are infinite or NaN.

    Args:
        learner: A compiled meta-learner.
        episodes: See `evaluate_tasks`.
        tasks: See `evaluate_tasks`.
        steps: Number of inner steps, at least 0. May exceed the number used
            in training.

    Returns:
        A `Curve` for `"loss"` and for each metric; see `evaluate_tasks`.

    Raises:
        ValueError: See `evaluate_tasks`.

    Example:
    ```python
    curve = keras_meta.adaptation_curve(learner, episodes, steps=10)
    print(curve["accuracy"].mean)  # before, and after 1, 2, ..., 10 steps
    ```
    """
    check_at_least(0, steps=steps)
    _require_inner_loop(learner, f"steps={steps}", "Use `evaluate_tasks`.")
    statistics = _statistics_of_tasks(
        learner,
        functools.partial(learner.predict_each_step, steps=steps),
        episodes,
        tasks,
    )
    return {
        name: Curve(mean, half_width, tasks)
        for name, (mean, half_width) in statistics.items()
    }


def _require_inner_loop(
    learner: keras.Model, received: str, way_out: str
) -> None:
    if not isinstance(learner, Learner):
        raise ValueError(
            "`steps` needs a learner with an inner loop. Received: "
            f"{received} with a {type(learner).__name__}. {way_out}"
        )


def predictions_of(learner: keras.Model, x: Any, steps: int | None) -> Any:
    """Returns predictions of adapted tasks, `[tasks, q, ...]`.

    Args:
        learner: A compiled meta-learner.
        x: The inputs of its call.
        steps: Number of inner steps, see `evaluate_tasks`.
    """
    if isinstance(learner, Learner):
        return learner.predict_adapted(x, steps=steps)
    return keras.tree.map_structure(
        tf.convert_to_tensor, learner.predict_on_batch(x)
    )


def _predict(learner: keras.Model, steps: int | None, x: Any) -> Any:
    """Returns predictions as a one-point curve, `[1, tasks, q, ...]`."""
    return keras.tree.map_structure(
        lambda y: map_annotated(lambda z: z[tf.newaxis], y),
        predictions_of(learner, x, steps),
    )


def _statistics_of_tasks(
    learner: keras.Model,
    predict: Callable[[Any], Any],
    episodes: tf.data.Dataset,
    tasks: int,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns means and half widths, `[steps, ...]`, of loss and metrics."""
    values = values_of_tasks(learner, predict, episodes, tasks)
    return {name: _mean_and_half_width(x) for name, x in values.items()}


def values_of_tasks(
    learner: keras.Model,
    predict: Callable[[Any], Any],
    episodes: tf.data.Dataset,
    tasks: int,
) -> dict[str, np.ndarray]:
    """Returns the loss and each metric of each task.

    Args:
        learner: A compiled meta-learner.
        predict: Maps the inputs of its call to predictions,
            `[variants, tasks, q, ...]`.
        episodes: See `evaluate_tasks`.
        tasks: See `evaluate_tasks`.

    Returns:
        An array `[variants, tasks, ...]` by the name of the metric.
    """
    # An interval needs at least two tasks.
    check_at_least(2, tasks=tasks)
    if not isinstance(learner, keras.Model):
        raise TypeError(
            "`learner` must be a meta-learner. Received: "
            f"learner={describe(learner)}"
        )
    if not learner.compiled:
        raise ValueError(
            "The learner must be compiled. Call `compile(loss=..., "
            "metrics=...)` with the loss and the metrics to measure."
        )
    parts = [
        _measure(learner, y, predictions)
        for y, predictions in _predictions(learner, predict, episodes, tasks)
    ]
    return {
        name: np.concatenate([part[name] for part in parts], axis=1)[:, :tasks]
        for name in parts[0]
    }


def interval_of(values: np.ndarray) -> Interval:
    """Returns the interval of the mean over tasks.

    Args:
        values: `[tasks, ...]`.
    """
    mean, half_width = _mean_and_half_width(values[np.newaxis])
    return _interval(mean[0], half_width[0], len(values))


def _predictions(
    learner: keras.Model,
    predict: Callable[[Any], Any],
    episodes: tf.data.Dataset,
    tasks: int,
) -> Iterator[tuple[tf.Tensor, tf.Tensor]]:
    """Yields labels and predictions until there are enough tasks."""
    done = 0
    for batch in _batches(episodes):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        if sample_weight is not None:
            raise ValueError(
                "`episodes` must yield `(x, query_y)`. Received a third "
                "element: weights of query examples are not supported here. "
                "Drop them with `episodes.map(lambda x, y, w: (x, y))`."
            )
        check_query(x, y, None)
        predictions = predict(x)
        if keras.tree.is_nested(predictions):
            raise ValueError(
                "The learner must have one output. Received: "
                f"{type(predictions).__name__}. Use `learner.evaluate`."
            )
        y = as_tensor("query_y", y)
        if isinstance(learner, Learner):
            learner.check_query_labels(x, y)
        yield y, predictions
        done += y.shape[0]
        if done >= tasks:
            return
    raise ValueError(
        f"`episodes` ended after {done} tasks; tasks={describe(tasks)} were "
        "requested. Make the data set longer or endless, or lower `tasks`."
    )


def _batches(episodes: Any) -> Iterator[Any]:
    """Returns an iterator over a data set, and refuses anything else."""
    try:
        return iter(episodes)
    except (TypeError, NotImplementedError) as error:
        raise TypeError(
            "`episodes` must be a data set of `(x, query_y)`. Received: "
            f"episodes={describe(episodes)}"
        ) from error


def _measure(
    learner: keras.Model, y: tf.Tensor, predictions: tf.Tensor
) -> dict[str, np.ndarray]:
    """Returns the loss and each metric, `[steps, tasks, ...]`, by name.

    Args:
        learner: The learner.
        y: Labels, `[tasks, q, ...]`.
        predictions: `[steps, tasks, q, ...]`.
    """
    steps = [_part(predictions, i) for i in range(predictions.shape[0])]
    results = [{"loss": _loss_of(learner, y, y_pred)} for y_pred in steps]
    _refuse_bad_labels(y, results[0]["loss"])
    if isinstance(learner, MetaLearner):
        steps = list(map(learner.combined, steps))
    for name, metric in _metrics(learner, y, steps[0]).items():
        for result, y_pred in zip(results, steps, strict=True):
            result.update(_metric(name, metric, y, y_pred))
    return {
        name: np.stack([result[name] for result in results])
        for name in results[0]
    }


def _loss_of(
    learner: keras.Model, y: tf.Tensor, y_pred: tf.Tensor
) -> np.ndarray:
    """Returns the loss of each task, `[tasks]`."""
    loss = InnerLoss(learner.loss, labels="query_y")
    if not isinstance(learner, MetaLearner):
        return loss(y, y_pred).numpy()
    parts = [loss(y, part).numpy() for part in learner.each_sample(y_pred)]
    return np.mean(parts, axis=0)


def _refuse_bad_labels(y: tf.Tensor, losses: np.ndarray) -> None:
    """Refuses labels that are not finite, in tasks whose loss is not finite."""
    for task in np.flatnonzero(~np.isfinite(losses)).tolist():
        if arguments_not_finite({"query_y": y}, ["query_y"], task):
            raise FloatingPointError(
                f"The loss of task {task} in the batch is not finite. "
                "`query_y` of this task contains NaN or infinity."
            )


def _part(x: tf.Tensor, i: int) -> tf.Tensor:
    return map_annotated(lambda y: y[i], x)


def _metrics(
    learner: keras.Model, y: tf.Tensor, y_pred: tf.Tensor
) -> dict[str, keras.metrics.Metric]:
    """Returns the compiled metrics by the names that Keras logs."""
    compiled = learner._compile_metrics
    if compiled is None:
        return {}
    # The accumulated state may belong to a running `fit`.
    with keras.StatelessScope():
        compiled.update_state(y[0], _part(y_pred, 0))
        names = [*compiled.result()]
    return dict(zip(names, compiled.metrics, strict=True))


def _metric(
    name: str, metric: keras.metrics.Metric, y: tf.Tensor, y_pred: tf.Tensor
) -> dict[str, np.ndarray]:
    """Returns a metric's results for each task, `[tasks, ...]`, by name."""
    if _is_mean_over_examples(metric) and keras_mask(y_pred) is None:
        values = metric._fn(
            task_axis.merge(y), merge_tasks(y_pred), **metric._fn_kwargs
        )
        values = tf.reshape(tf.cast(values, tf.float32), [y.shape[0], -1])
        return {name: tf.reduce_mean(values, axis=1).numpy()}
    results = [
        _metric_of_task(metric, y[i], _part(y_pred, i))
        for i in range(y.shape[0])
    ]
    if not isinstance(results[0], dict):
        results = [{name: result} for result in results]
    return {
        key: np.stack([result[key] for result in results]) for key in results[0]
    }


def _metric_of_task(
    metric: keras.metrics.Metric, y: tf.Tensor, y_pred: tf.Tensor
) -> Any:
    """Returns a metric's result for one task, leaving its state unchanged."""
    with keras.StatelessScope():
        metric.reset_state()
        metric.update_state(y, y_pred)
        # A result may be a variable, which has this value only in the scope.
        return keras.tree.map_structure(
            keras.ops.convert_to_numpy, metric.result()
        )


def _is_mean_over_examples(metric: keras.metrics.Metric) -> bool:
    """Whether a metric is the mean of a function of single examples."""
    wrapper = keras.metrics.MeanMetricWrapper
    return (
        isinstance(metric, wrapper)
        and type(metric).update_state is wrapper.update_state
        and type(metric).result is wrapper.result
        and getattr(metric._fn, "__module__", "").startswith("keras.")
    )


def _interval(mean: Any, half_width: Any, tasks: int) -> Interval:
    if np.ndim(mean):
        return Interval(mean, half_width, tasks)
    return Interval(float(mean), float(half_width), tasks)


def _mean_and_half_width(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and half width, `[steps, ...]`, over the tasks.

    Args:
        values: `[steps, tasks, ...]`.
    """
    values = values.astype(np.float64)
    # If a task diverged, both are infinite or NaN.
    with np.errstate(invalid="ignore", over="ignore"):
        deviation = values.std(axis=1, ddof=1)
        mean = values.mean(axis=1)
    return mean, _QUANTILE * deviation / math.sqrt(values.shape[1])
