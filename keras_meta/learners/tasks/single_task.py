"""One task alone, as the inputs of a learner."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keras_meta.learners.tasks.tensors import as_tensor
from keras_meta.learners.tasks.tensors import as_tensors


def inputs_of_one_task(
    support_x: Any, support_y: Any, sample_weight: Any = None
) -> dict[str, Any]:
    """Returns the inputs of `Learner.call` for one task.

    Its queries are the support set's inputs.

    Args:
        support_x: Inputs of the task, nested arrays, `[n, ...]` each.
        support_y: Their labels, `[n, ...]`.
        sample_weight: Weights of the examples, `[n]`, or `None`.

    Raises:
        TypeError: If an array cannot be a tensor.
        ValueError: If `support_y` is a single label.
    """
    # The learner has one loss, so lists of labels are rows of an array.
    support_y = as_tensor("support_y", support_y)
    if not support_y.shape.rank:
        raise ValueError(
            "`support_y` must hold a label for each example, [n, ...]. "
            f"Received: support_y={support_y.numpy()!r}"
        )
    inputs = {
        "support_x": support_x,
        "support_y": support_y,
        "query_x": support_x,
    }
    if sample_weight is not None:
        inputs["support_sample_weight"] = sample_weight
    return keras.tree.map_structure(lambda x: x[tf.newaxis], as_tensors(inputs))
