"""What Keras remembers about a tensor besides its values.

Keras puts attributes on the tensors that layers return, and its losses and
metrics read them: `_keras_mask`, which entries count, and `_keras_logits`,
what a softmax or a sigmoid was computed from. A cross-entropy of logits is
exact where probabilities have been rounded to 0 or 1. Operations on a tensor
drop the attributes, and they do not cross the boundary of a graph. These
functions carry them along. Checked with Keras 3.15.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching import task_axis

_MASK = "_keras_mask"
_LOGITS = "_keras_logits"
# Not of Keras: the samples that a prediction is the mean of.
_SAMPLES = "_keras_meta_samples"


def keras_mask(x: tf.Tensor) -> tf.Tensor | None:
    """Returns which entries of a tensor count, where Keras says so."""
    return getattr(x, _MASK, None)


def annotations(x: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns what Keras remembers of a tensor, by attribute."""
    names = (_MASK, _LOGITS, _SAMPLES)
    found = {name: getattr(x, name, None) for name in names}
    return {name: note for name, note in found.items() if note is not None}


def with_samples(mean: tf.Tensor, samples: tf.Tensor) -> tf.Tensor:
    """Returns a prediction that remembers the samples it is the mean of.

    Args:
        mean: `[tasks, q, ...]`.
        samples: `[tasks, q, samples, ...]`.
    """
    return annotate(mean, {_SAMPLES: samples})


def samples_of(y_pred: tf.Tensor) -> tf.Tensor:
    """Returns the samples of a prediction; itself is the one by default.

    Args:
        y_pred: Predictions as metrics get them, `[n, ...]`.

    Returns:
        `[n, samples, ...]`.
    """
    samples = getattr(y_pred, _SAMPLES, None)
    return y_pred[:, tf.newaxis] if samples is None else samples


def annotate(x: tf.Tensor, notes: dict[str, tf.Tensor]) -> tf.Tensor:
    """Puts attributes on a tensor and returns it."""
    for name, note in notes.items():
        setattr(x, name, note)
    return x


def map_annotated(
    function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor
) -> tf.Tensor:
    """Applies a function to a tensor and to what Keras remembers of it.

    Args:
        function: Moves entries to other places, such as a reshape or a slice.
        x: The tensor.
    """
    notes = {name: function(note) for name, note in annotations(x).items()}
    return annotate(function(x), notes)


def merge_tasks(x: tf.Tensor) -> tf.Tensor:
    """Merges tasks into the batch: `[tasks, n, ...]` to `[tasks * n, ...]`."""
    return map_annotated(task_axis.merge, x)


def split_tasks(x: tf.Tensor, tasks: int | tf.Tensor) -> tf.Tensor:
    """Undoes `merge_tasks`: `[tasks * n, ...]` to `[tasks, n, ...]`."""
    return map_annotated(lambda y: task_axis.split(y, tasks), x)


def at_least_float32(x: tf.Tensor) -> tf.Tensor:
    """Casts half precision to float32, logits included."""

    def cast(y):
        return tf.cast(y, keras.backend.result_type(y.dtype, "float32"))

    notes = annotations(x)
    for name in (_LOGITS, _SAMPLES):
        if name in notes:
            notes[name] = cast(notes[name])
    return annotate(cast(x), notes)


def detach(outputs: Any) -> tuple[Any, list[dict[str, tf.Tensor]]]:
    """Returns nested tensors and their attributes as nested tensors.

    Both may leave a graph, or be stacked and sliced.
    """
    return outputs, [annotations(x) for x in keras.tree.flatten(outputs)]


def attach(outputs: Any, notes: list[dict[str, tf.Tensor]]) -> Any:
    """Undoes `detach`."""
    for x, attributes in zip(keras.tree.flatten(outputs), notes, strict=True):
        annotate(x, attributes)
    return outputs
