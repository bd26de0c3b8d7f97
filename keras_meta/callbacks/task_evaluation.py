"""Validation on whole tasks, with confidence intervals."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_meta.checks import check_at_least
from keras_meta.checks import check_positive
from keras_meta.evaluation import evaluate_tasks


class TaskEvaluation(keras.callbacks.Callback):
    """Evaluates on tasks at the end of an epoch.

    Adds the mean over tasks of the loss and of each metric to the logs,
    say `val_accuracy`, and half the width of its 95 % interval as
    `val_accuracy_interval`, so that a `ModelCheckpoint` or `EarlyStopping`
    that comes after it in the list of callbacks can monitor them. As in
    Keras, a metric with several values logs an array, which these callbacks
    cannot monitor.

    Args:
        episodes: Data set of `(x, query_y)`. Each evaluation draws from its
            start.
        tasks: Number of tasks, at least 2.
        prefix: Put before the names of what is measured.
        every: Number of epochs from one evaluation to the next.

    Raises:
        ValueError: If `tasks` is no integer of at least 2, or `every` no
            positive one.

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

    def on_epoch_end(self, epoch, logs=None):
        """Evaluates and adds to `logs`."""
        if (epoch + 1) % self.every or logs is None:
            return
        results = evaluate_tasks(self.model, self.episodes, self.tasks)
        for name, interval in results.items():
            logs[f"{self.prefix}{name}"] = interval.mean
            logs[f"{self.prefix}{name}_interval"] = interval.half_width
