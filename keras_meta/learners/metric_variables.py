"""Creates the variables of compiled metrics before the first step."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_meta.learners.tasks.texts import output_shape


def build_metrics(
    metrics: keras.Metric, model: keras.Model | None, data: Any, eager: bool
) -> None:
    """Creates the metrics' variables, if the predictions' shape is known.

    A step that creates variables is traced twice. Keras creates these in the
    step, where it sees the predictions. Here, their shape is known for models
    with one output.

    Args:
        metrics: The compiled metrics.
        model: What makes the predictions, if it is known.
        data: Specs of a batch of tasks, as Keras takes it.
        eager: Whether steps run eagerly.
    """
    shape = output_shape(model)
    _, y, _ = keras.utils.unpack_x_y_sample_weight(data)
    if shape is None or not isinstance(y, tf.TensorSpec) or not shape[1:]:
        return
    if y.shape.rank is None or y.shape.rank < 2:
        return
    labels = tf.TensorSpec([None, *y.shape[2:]], y.dtype)
    predictions = tf.TensorSpec([None, *shape[1:]], keras.config.floatx())
    metrics.build(labels, predictions)
    if eager:
        return
    # Some metrics create their variables when they see the first batch.
    with keras.StatelessScope():
        tf.function(
            metrics.update_state, autograph=False
        ).get_concrete_function(labels, predictions)
