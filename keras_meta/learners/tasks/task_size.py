"""How large a task is."""

from __future__ import annotations

from typing import Any

import keras

from keras_meta.execution import task_blocks


def examples_of_task(x: Any) -> int | None:
    """Returns the number of support and query examples, if it is known.

    Inputs that are not an episode have no such number. The step says what is
    wrong with them.

    Args:
        x: Tensors or their specs as `Learner.call` takes them.
    """
    required = {"support_x", "support_y", "query_x"}
    if not isinstance(x, dict) or not required <= set(x):
        return None
    support, labels, queries = (
        keras.tree.flatten(x[name])
        for name in ("support_x", "support_y", "query_x")
    )
    if len(labels) != 1 or len(support) != len(queries):
        return None
    ranks = [leaf.shape.rank or 0 for leaf in (*support, *queries)]
    if min(*ranks, labels[0].shape.rank or 0) < 2:
        return None
    if ranks[: len(support)] != ranks[len(support) :]:
        return None
    shots, queries = labels[0].shape[1], queries[0].shape[1]
    return None if None in (shots, queries) else shots + queries


def size_of_task(model: keras.Model, x: Any) -> int | None:
    """Returns the bytes that one operation on one task reads and writes.

    `None` means that the number of examples is not known.

    Args:
        model: The network.
        x: Tensors or their specs as `Learner.call` takes them.
    """
    examples = examples_of_task(x)
    if examples is None:
        return None
    return task_blocks.working_set(model, x["support_x"], examples)


def is_faster_plain(model: keras.Model, data: Any) -> bool:
    """Whether tasks are faster one by one without XLA; see `task_blocks`.

    Args:
        model: The network.
        data: A batch of tasks, as Keras takes it.
    """
    if not task_blocks.has_plain_kernels(model):
        return False
    x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
    size = size_of_task(model, x)
    return size is not None and task_blocks.is_faster_plain(model, size)
