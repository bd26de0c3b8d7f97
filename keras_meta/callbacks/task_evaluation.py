"""Validation on tasks, with confidence intervals."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_at_least
from keras_meta.checks import check_positive
from keras_meta.evaluation import evaluate_tasks


class TaskEvaluation(keras.callbacks.Callback):
    """Evaluates on tasks at the end of an epoch.

    For the loss and for each metric, adds the mean over the tasks to the logs,
    for instance as `val_accuracy`, and half the width of its 95 % interval as
    `val_accuracy_interval`. A `ModelCheckpoint` or `EarlyStopping` that
    follows in the list of callbacks can monitor them. As in Keras, a metric
    with several values logs an array, which these callbacks cannot monitor.

    Args:
        episodes: Data set of `(x, query_y)`. Each evaluation starts from its
            beginning.
        tasks: Number of tasks, at least 2.
        prefix: Prefix of the names in the logs.
        every: Number of epochs between evaluations.

    Raises:
        ValueError: If `tasks` is not an integer of at least 2, or `every` is
            not a positive integer.

    Example:
    ```python
    learner.fit(
        train,
        steps_per_epoch=500,
        epochs=20,
        callbacks=[
            keras_meta.callbacks.TaskEvaluation(validation, tasks=600),
            keras.callbacks.ModelCheckpoint(
                "best.keras",
                monitor="val_accuracy",
                mode="max",
                save_best_only=True,
            ),
        ],
    )
    ```
    """

    def __init__(
        self,
        episodes: tf.data.Dataset,
        tasks: int = 600,
        prefix: str = "val_",
        every: int = 1,
    ):
        super().__init__()
        check_at_least(2, tasks=tasks)
        check_positive(every=every)
        self.episodes = episodes
        self.tasks = tasks
        self.prefix = prefix
        self.every = every

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Evaluates and adds the results to `logs`."""
        if (epoch + 1) % self.every or logs is None:
            return
        results = evaluate_tasks(self.model, self.episodes, self.tasks)
        for name, interval in results.items():
            logs[f"{self.prefix}{name}"] = interval.mean
            logs[f"{self.prefix}{name}_interval"] = interval.half_width
