"""Stopping and going on."""

from __future__ import annotations

import pathlib
import time

import keras

_NAME = "checkpoint.weights.h5"


class Checkpoint(keras.callbacks.Callback):
    """Saves weights and the optimizer's state at the end of epochs.

    Args:
        directory: Folder of the run.
        every: Number of epochs from one save to the next; the last epoch is
            saved in any case.
    """

    def __init__(self, directory: pathlib.Path, every: int = 1):
        super().__init__()
        self._directory = directory
        self._every = every

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self._every == 0:
            self._save()

    def on_train_end(self, logs=None):
        self._save()

    def _save(self):
        # A run may be stopped at any moment; the old file lasts until the
        # new one is whole.
        self._directory.mkdir(parents=True, exist_ok=True)
        unfinished = self._directory / f"unfinished.{_NAME}"
        self.model.save_weights(unfinished)
        unfinished.replace(self._directory / _NAME)


def restore(model: keras.Model, directory: pathlib.Path) -> int:
    """Restores what `Checkpoint` saved, if it did.

    Args:
        model: A compiled model.
        directory: Folder of the run.

    Returns:
        Number of iterations that the weights have seen.
    """
    path = directory / _NAME
    if not path.exists():
        return 0
    model.optimizer.build(model.trainable_variables)
    model.load_weights(path)
    return int(model.optimizer.iterations.numpy())


class IterationLimit(keras.callbacks.Callback):
    """Stops training after a number of iterations, within an epoch too.

    Args:
        iterations: The number, counted from the first run on.
    """

    def __init__(self, iterations: int):
        super().__init__()
        self.iterations = iterations

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations.numpy()) >= self.iterations:
            self.model.stop_training = True


class LogIterations(keras.callbacks.Callback):
    """Adds the number of iterations, for an epoch may end early, to the logs.

    It must come before what writes the logs.
    """

    def on_epoch_end(self, epoch, logs=None):
        logs["iterations"] = int(self.model.optimizer.iterations.numpy())


class TimeLimit(keras.callbacks.Callback):
    """Ends training after a while.

    Args:
        minutes: How long, or 0 for no limit.
    """

    def __init__(self, minutes: float):
        super().__init__()
        self._seconds = 60 * minutes

    def on_train_begin(self, logs=None):
        self._start = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        elapsed = time.monotonic() - self._start
        if self._seconds and elapsed > self._seconds:
            self.model.stop_training = True
