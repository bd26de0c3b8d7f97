"""The inputs of a meta-learner, checked."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from keras_meta.unroll.inner_loss import InnerLoss

_REQUIRED = ("support_x", "support_y", "query_x")
_OPTIONAL = ("support_sample_weight",)


@dataclasses.dataclass(frozen=True)
class Episode:
    """A batch of tasks.

    Attributes:
        support_x: Inputs to adapt on, nested as the model expects them, each
            `[tasks, n, ...]`.
        support_y: Their labels, `[tasks, n, ...]`.
        query_x: Inputs to predict, nested as `support_x`, each
            `[tasks, q, ...]`.
        support_sample_weight: Weights of the support examples,
            `[tasks, n]`, or `None`.
    """

    support_x: Any
    support_y: tf.Tensor
    query_x: Any
    support_sample_weight: tf.Tensor | None = None

    @classmethod
    def from_inputs(cls, inputs: dict[str, Any]) -> Episode:
        """Checks and wraps the `x` of an episode data set.

        Raises:
            TypeError: If `inputs` is not a dict.
            ValueError: If a key is missing or unknown, or shapes disagree.
        """
        if not isinstance(inputs, dict):
            raise TypeError(
                "A meta-learner takes a dict with the keys "
                f"{list(_REQUIRED)}. Received: {type(inputs).__name__}. "
                "Yield `(x, query_y)` with such a dict `x`, or make episodes "
                "with `keras_meta.episodes`."
            )
        unknown = [k for k in inputs if k not in _REQUIRED + _OPTIONAL]
        missing = [k for k in _REQUIRED if k not in inputs]
        if unknown or missing:
            raise ValueError(
                f"The inputs must have the keys {list(_REQUIRED)}, and may "
                f"have {list(_OPTIONAL)}. Missing: {missing}. Unknown: "
                f"{unknown}. The labels of the query set are not an input: "
                "yield `(x, query_y)`."
            )
        if keras.tree.is_nested(inputs["support_y"]):
            raise ValueError(
                "`support_y` must be one tensor, [tasks, examples, ...], as "
                "the inner loop has one loss. Received: support_y of type "
                f"{type(inputs['support_y']).__name__}. Put the labels of "
                "several outputs side by side in one tensor, and pass "
                "`inner_loss=`, a function of (y_true, y_pred)."
            )
        episode = cls(
            **keras.tree.map_structure(tf.convert_to_tensor, dict(inputs))
        )
        episode._check_shapes()
        return dataclasses.replace(
            episode,
            support_sample_weight=_squeeze(episode.support_sample_weight),
        )

    @property
    def tasks(self) -> int | tf.Tensor:
        """Number of tasks."""
        static = self.support_y.shape[0]
        return tf.shape(self.support_y)[0] if static is None else static

    def as_inputs(self) -> dict[str, Any]:
        """Returns what `from_inputs` takes."""
        inputs = {name: getattr(self, name) for name in _REQUIRED + _OPTIONAL}
        return {k: v for k, v in inputs.items() if v is not None}

    def with_valid_labels(self, loss: InnerLoss, ways: int | None) -> Episode:
        """Replaces class numbers out of range, which `Health` reports.

        Without XLA the loss would raise an error of its own before.

        Args:
            loss: The inner loss.
            ways: Number of classes, if there are classes.
        """
        if not loss.is_sparse or ways is None:
            return self
        y = tf.cast(self.support_y, tf.int32)
        valid = tf.logical_and(y >= 0, y < ways)
        ignored = loss.ignored_class
        if ignored is not None:
            valid = tf.logical_or(valid, y == ignored)
        return dataclasses.replace(
            self, support_y=tf.where(valid, y, tf.zeros_like(y))
        )

    def _check_shapes(self):
        parts = {
            "support_x": keras.tree.flatten(self.support_x),
            "support_y": [self.support_y],
            "query_x": keras.tree.flatten(self.query_x),
        }
        if self.support_sample_weight is not None:
            parts["support_sample_weight"] = [self.support_sample_weight]
        shapes = {name: [x.shape for x in xs] for name, xs in parts.items()}
        flat = [(name, s) for name, ss in shapes.items() for s in ss]
        for name, shape in flat:
            if shape.rank is not None and shape.rank < 2:
                raise ValueError(
                    f"`{name}` must have the shape [tasks, examples, ...]. "
                    f"Received: {name}.shape={shape}"
                )
        _check_equal_axis(flat, 0, "the same number of tasks (axis 0)")
        support = [x for x in flat if x[0] != "query_x"]
        _check_equal_axis(support, 1, "the same number of examples (axis 1)")
        self._check_ranks(shapes)

    def _check_ranks(self, shapes):
        ranks = [
            [s.rank for s in shapes[name]] for name in ("support_x", "query_x")
        ]
        if ranks[0] != ranks[1]:
            raise ValueError(
                "`support_x` and `query_x` must have the same rank. "
                f"Received: support_x.shape={_show(shapes['support_x'])}, "
                f"query_x.shape={_show(shapes['query_x'])}"
            )


def check_query(x: Any, y: Any, sample_weight: Any) -> None:
    """Checks the labels and weights of the query sets.

    Raises:
        ValueError: If there are no labels, or labels or weights that are not
            those of the examples.
    """
    if y is None:
        raise ValueError(
            "The query sets need labels to learn from. Received: y=None. "
            "Yield `(x, query_y)`."
        )
    labels = [tf.convert_to_tensor(leaf) for leaf in keras.tree.flatten(y)]
    _check_labels_of_queries(x, labels)
    for weight in keras.tree.flatten(sample_weight):
        if weight is None:
            continue
        shape = tf.convert_to_tensor(weight).shape
        fits = shape.rank is None or (
            shape.rank >= 2
            and any(_is_weight_of(shape, leaf.shape) for leaf in labels)
        )
        if not fits:
            raise ValueError(
                "`sample_weight` must have the shape [tasks, queries] of the "
                f"query labels, {_show([leaf.shape for leaf in labels])}. "
                f"Received: sample_weight.shape={shape}. Keras makes such "
                "weights from class_weight=, which takes an example to be a "
                "whole task; give weights of examples instead."
            )


def _check_labels_of_queries(x: Any, labels: list[tf.Tensor]) -> None:
    if not isinstance(x, dict) or "query_x" not in x:
        return
    inputs = tf.convert_to_tensor(keras.tree.flatten(x["query_x"])[0]).shape
    for shape in (label.shape for label in labels):
        if None in (inputs.rank, shape.rank):
            continue
        if shape.rank < 2 or not shape[:2].is_compatible_with(inputs[:2]):
            raise ValueError(
                "`query_y` must have the shape [tasks, queries, ...] of "
                f"`query_x`. Received: query_y.shape={shape}, "
                f"query_x.shape={inputs}"
            )


def _is_weight_of(weight: tf.TensorShape, label: tf.TensorShape) -> bool:
    if label.rank is None or label.rank < 2:
        return True
    queries = [weight[1], label[1]]
    return weight[:1].is_compatible_with(label[:1]) and (
        None in queries or queries[0] in (1, queries[1])
    )


def _check_equal_axis(shapes, axis: int, what: str):
    sizes = {s[axis] for _, s in shapes if s.rank is not None}
    if len(sizes - {None}) > 1:
        received = ", ".join(f"{name}.shape={s}" for name, s in shapes)
        names = " and ".join(dict.fromkeys(f"`{name}`" for name, _ in shapes))
        raise ValueError(f"{names} must have {what}. Received: {received}")


def _squeeze(weight: tf.Tensor | None) -> tf.Tensor | None:
    """Drops last axes of size 1 behind `[tasks, n]`, as Keras does."""
    while weight is not None and (weight.shape.rank or 0) > 2:
        if weight.shape[-1] != 1:
            break
        weight = tf.squeeze(weight, -1)
    return weight


def _show(shapes):
    return shapes[0] if len(shapes) == 1 else shapes
