"""How much a learner depends on which class of a task gets which number."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_meta.checks import check_at_least
from keras_meta.checks import check_between
from keras_meta.checks import describe
from keras_meta.evaluation import Interval
from keras_meta.evaluation import interval_of
from keras_meta.evaluation import predictions_of
from keras_meta.evaluation import values_of_tasks


@dataclasses.dataclass(frozen=True)
class PermutationSpread:
    """A metric over permutations of the class numbers of tasks.

    Each is a mean over tasks with its 95 % interval.

    Attributes:
        mean: The mean over the permutations of a task.
        deviation: The standard deviation over the permutations of a task. It
            is 0 if the numbers of the classes do not matter.
        lowest: The lowest value of a task.
        highest: The highest value of a task.
    """

    mean: Interval
    deviation: Interval
    lowest: Interval
    highest: Interval


def class_permutation_spread(
    learner: keras.Model,
    episodes: tf.data.Dataset,
    tasks: int = 100,
    permutations: int = 24,
    *,
    seed: int = 0,
) -> dict[str, PermutationSpread]:
    """Evaluates a learner with the classes of each task numbered anew.

    A classifier with a row of its own for each class number, such as the
    head of `MAML`, starts with rows that fit some of the classes of a task
    better than others. So its accuracy depends on which class has which
    number, which means nothing. The spread is what could be gained by the
    best numbers. It is 0 for learners that treat all classes alike:
    `MetricLearner`s, and those whose head starts with equal rows, such as
    zeros.

    Every task is adapted and predicted `permutations` times.

    Args:
        learner: A compiled meta-learner that classifies.
        episodes: See `evaluate_tasks`. Labels of support sets are class
            numbers.
        tasks: See `evaluate_tasks`.
        permutations: How many permutations to take, from 2 to 5040: all of
            them if there are fewer, else as many different ones, drawn at
            random. All tasks get the same.
        seed: Seed of the draw, from 0 to 2**32 - 1.

    Returns:
        A `PermutationSpread` for `"loss"` and for each compiled metric.

    Raises:
        ValueError: If an argument is out of range, or the labels of support
            sets are not class numbers.

    Example:
    ```python
    spread = keras_meta.class_permutation_spread(maml, episodes)["accuracy"]
    print(spread.lowest.percent, spread.highest.percent)
    ```

    References:
        - [Ye and Chao, 2022](https://arxiv.org/abs/2106.16245), section 4.
    """
    check_between(2, 5040, permutations=permutations)
    check_at_least(0, seed=seed)

    def predict(x):
        _require_class_numbers(x)
        ways = _number_of_classes(predictions_of(learner, x, None))
        return tf.stack(
            [
                _predict_numbered(learner, x, order)
                for order in _orders(ways, permutations, seed)
            ]
        )

    values = values_of_tasks(learner, predict, episodes, tasks)
    return {name: _spread(x) for name, x in values.items()}


def _predict_numbered(
    learner: keras.Model, x: dict[str, Any], order: np.ndarray
) -> tf.Tensor:
    """Returns predictions `[tasks, q, ways]` in the order of the old numbers.

    Args:
        learner: The learner.
        x: The inputs of its call.
        order: The new number of each class, `[ways]`.
    """
    labels = tf.convert_to_tensor(x["support_y"])
    numbers = tf.gather(tf.constant(order), tf.cast(labels, tf.int32))
    renumbered = {**x, "support_y": tf.cast(numbers, labels.dtype)}
    predictions = predictions_of(learner, renumbered, None)
    return tf.gather(predictions, order, axis=-1)


def _orders(ways: int, number: int, seed: int) -> list[np.ndarray]:
    """Returns different permutations, `[ways]` each."""
    if math.factorial(ways) <= number:
        return list(map(np.array, itertools.permutations(range(ways))))
    # RandomState, because its stream is frozen across NumPy versions.
    random = np.random.RandomState(seed)
    found: dict[tuple[int, ...], None] = {}
    while len(found) < number:
        found[tuple(random.permutation(ways).tolist())] = None
    return list(map(np.array, found))


def _require_class_numbers(x: Any) -> None:
    """Refuses labels of support sets that cannot be numbered anew."""
    labels = tf.convert_to_tensor(x["support_y"])
    is_flat = labels.shape.rank == 2 or labels.shape[2:] == [1]
    if not is_flat or labels.dtype == tf.string:
        raise ValueError(
            "`support_y` must be class numbers, [tasks, n], to number the "
            f"classes anew. Received: support_y={describe(labels)}. Map "
            "one-hot labels to numbers by `tf.argmax(support_y, -1)`."
        )


def _number_of_classes(predictions: Any) -> int:
    """Returns the size of the last axis of predictions `[tasks, q, ways]`."""
    shape = tf.TensorShape(getattr(predictions, "shape", None))
    if shape.rank != 3 or shape[-1] < 2:
        raise ValueError(
            "The learner must predict classes, [tasks, queries, ways], with "
            "at least 2 ways. Received: predictions "
            f"{describe(predictions)}. For others, use `evaluate_tasks`."
        )
    return int(shape[-1])


def _spread(values: np.ndarray) -> PermutationSpread:
    """Returns the spread of values `[permutations, tasks, ...]`."""
    values = values.astype(np.float64)
    # The same value many times has a mean that is rounded.
    deviation = (values - values[0]).std(axis=0)
    return PermutationSpread(
        mean=interval_of(values.mean(axis=0)),
        deviation=interval_of(deviation),
        lowest=interval_of(values.min(axis=0)),
        highest=interval_of(values.max(axis=0)),
    )
