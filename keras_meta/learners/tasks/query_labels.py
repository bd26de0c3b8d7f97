"""Which labels of the query sets go with which output and loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_meta.batching.output_specs import number_of_classes
from keras_meta.inner.class_numbers import ClassNumbers
from keras_meta.inner.class_numbers import LabelRule
from keras_meta.inner.inner_loss import InnerLoss


def label_rules(
    loss: Any, y: Any, outputs: Callable[[], Any]
) -> list[LabelRule | None]:
    """Returns what each of the labels must be.

    Labels, outputs and losses are paired as Keras pairs them. Where it
    refuses them, nothing is required here.

    Args:
        loss: Whatever `compile` takes as a loss.
        y: Labels, nested.
        outputs: Returns specs of the model's outputs, nested, or `None` if
            they are unknown. It is called only if class numbers are expected.

    Returns:
        For each of the flat labels a rule, or `None` for any numbers.
    """
    labels = list(_by_path(y))
    if not any(InnerLoss(x).is_sparse for x in _existing(loss)):
        return [None] * len(labels)
    known = outputs()
    specs = dict.fromkeys(labels) if known is None else _by_path(known)
    losses = _losses_of_outputs(loss, list(specs))
    if len(labels) == len(specs):
        paths = list(specs)
    else:
        # There may be labels for just the outputs that have a loss.
        paths = [path for path in specs if losses[path]]
    if len(labels) != len(paths):
        return [None] * len(labels)
    return [
        _rule(label, losses[path], specs[path])
        for label, path in zip(labels, paths, strict=True)
    ]


def _losses_of_outputs(loss: Any, paths: list[tuple]) -> dict[tuple, list]:
    """Returns the losses of each output, by its path."""
    if not keras.tree.is_nested(loss) or paths == [()]:
        return {path: _existing(loss) for path in paths}
    found = _by_path(loss)
    is_list = isinstance(loss, (list, tuple))
    if is_list and len(found) == len(paths) == len(loss):
        found = dict(zip(paths, found.values(), strict=True))
    return {path: _existing(found.get(path)) for path in paths}


def _existing(loss: Any) -> list:
    """Returns flat losses, without missing ones."""
    return [x for x in keras.tree.flatten(loss) if x is not None]


def _rule(label: tuple, losses: list, spec: Any) -> LabelRule | None:
    """Returns the rule of a label that goes with losses and an output."""
    ways = None if spec is None else number_of_classes(spec)
    rules = [ClassNumbers.of(InnerLoss(loss), ways) for loss in losses]
    rules = [rule for rule in rules if rule is not None]
    if not rules:
        return None
    keys = "".join(f"[{key!r}]" for key in label)
    return LabelRule(f"query_y{keys}", rules[0])


def _by_path(values: Any) -> dict[tuple, Any]:
    """Returns nested values by the keys that lead to them."""
    return dict(keras.tree.flatten_with_path(values))
