"""The inputs of a meta-learner, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import describe
from keras_meta.inner.class_numbers import LabelRule
from keras_meta.learners.tasks.tensors import as_nested_tensors
from keras_meta.learners.tasks.tensors import as_tensor
from keras_meta.learners.tasks.tensors import as_tensors
from keras_meta.learners.tasks.tensors import check_equal_axis

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
    def from_inputs(
        cls,
        inputs: dict[str, Any],
        model: keras.Model | None = None,
        needs_queries: bool = False,
    ) -> Episode:
        """Checks and wraps the `x` of an episode data set.

        Args:
            inputs: The `x`.
            model: The model that takes `support_x` and `query_x`, if they
                are to be checked against it.
            needs_queries: Whether there must be a query. A loss needs one, a
                prediction does not.

        Raises:
            TypeError: If `inputs` is not a dict of dense arrays.
            ValueError: If a key is missing or unknown, or shapes disagree.
        """
        check_is_dict(inputs)
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
                "`support_y` must be one tensor, [tasks, examples, ...], "
                "because the inner loop has one loss. Received: support_y of "
                f"type {type(inputs['support_y']).__name__}. Put the labels of "
                "several outputs side by side in one tensor, and pass "
                "`inner_loss=`, a function of (y_true, y_pred)."
            )
        weight = inputs.get("support_sample_weight")
        if keras.tree.is_nested(weight):
            raise ValueError(
                "`support_sample_weight` must be one array, [tasks, examples]. "
                f"Received: {describe(weight)}"
            )
        episode = cls(**as_tensors(inputs))
        if model is not None:
            episode = episode._with_shapes_of(model)
        episode._check_shapes()
        return dataclasses.replace(
            episode,
            support_sample_weight=_squeeze(episode.support_sample_weight),
        )._with_checked_sizes(needs_queries)

    @property
    def tasks(self) -> int | tf.Tensor:
        """Number of tasks."""
        static = self.support_y.shape[0]
        return tf.shape(self.support_y)[0] if static is None else static

    def as_inputs(self) -> dict[str, Any]:
        """Returns what `from_inputs` takes."""
        inputs = {name: getattr(self, name) for name in _REQUIRED + _OPTIONAL}
        return {k: v for k, v in inputs.items() if v is not None}

    def with_valid_labels(self, rule: LabelRule | None) -> Episode:
        """Replaces labels out of range, which `Health` reports.

        Args:
            rule: What labels must be, if they are class numbers.
        """
        if rule is None:
            return self
        return dataclasses.replace(
            self, support_y=rule.classes.replace_others(self.support_y)
        )

    def with_support_at(self, places: tf.Tensor) -> Episode:
        """Returns the episode with some of its support examples.

        Args:
            places: Which examples to take, in their order, `[tasks, m]`.
        """

        def take(x):
            return tf.gather(x, places, batch_dims=1)

        weight = self.support_sample_weight
        return dataclasses.replace(
            self,
            support_x=keras.tree.map_structure(take, self.support_x),
            support_y=take(self.support_y),
            support_sample_weight=None if weight is None else take(weight),
        )

    def _with_shapes_of(self, model: keras.Model) -> Episode:
        """Fills in unknown sizes that a model knows.

        Raises:
            ValueError: If inputs do not have the sizes that the model takes.
        """
        specs = _input_specs(model)
        if specs is None:
            return self
        fitted = {}
        for name in ("support_x", "query_x"):
            inputs = getattr(self, name)
            flat = keras.tree.flatten(inputs)
            if len(flat) != len(specs):
                return self
            flat = [
                _fit_to_model(name, x, spec)
                for x, spec in zip(flat, specs, strict=True)
            ]
            fitted[name] = keras.tree.pack_sequence_as(inputs, flat)
        return dataclasses.replace(self, **fitted)

    def _with_checked_sizes(self, needs_queries: bool) -> Episode:
        """Checks sizes that are known only when the graph runs."""
        flat = [
            (name, x)
            for name, value in self.as_inputs().items()
            for x in keras.tree.flatten(value)
        ]
        support = [(name, x) for name, x in flat if name != "query_x"]
        checks = [
            *_size_assertions(flat, 0, "tasks"),
            *_size_assertions(support, 1, "support examples"),
        ]
        if needs_queries:
            queries = [(name, x) for name, x in flat if name == "query_x"]
            checks += _size_assertions(queries, 1, "queries")
        if not checks:
            return self
        with tf.control_dependencies(checks):
            inputs = keras.tree.map_structure(tf.identity, self.as_inputs())
        return Episode(**inputs)

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
        for name in parts:
            if not parts[name]:
                raise ValueError(
                    f"`{name}` must hold the model's inputs, each [tasks, "
                    f"examples, ...]. Received: {name}={getattr(self, name)}"
                )
        for name, shape in flat:
            if shape.rank is None:
                raise ValueError(
                    f"`{name}` must have a known number of axes. Received: "
                    f"{name} of an unknown shape. Give it one: "
                    "tf.ensure_shape(..., [None, None, ...])."
                )
            if shape.rank < 2:
                raise ValueError(
                    f"`{name}` must have the shape [tasks, examples, ...]. "
                    f"Received: {name}.shape={shape}"
                )
        check_equal_axis(flat, 0, "the same number of tasks (axis 0)")
        support = [x for x in flat if x[0] != "query_x"]
        check_equal_axis(support, 1, "the same number of examples (axis 1)")
        _check_not_empty(flat, 0, "task")
        _check_not_empty(support, 1, "support example")
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


def check_is_dict(inputs: Any) -> None:
    """Requires a dict for the inputs of a learner.

    Raises:
        TypeError: If it is anything else.
    """
    if not isinstance(inputs, dict):
        raise TypeError(
            f"A meta-learner takes a dict with the keys {list(_REQUIRED)}. "
            f"Received: {type(inputs).__name__}. Yield `(x, query_y)` with "
            "such a dict `x`, or make episodes with `keras_meta.episodes`."
        )


def check_query(x: Any, y: Any, sample_weight: Any) -> Any:
    """Checks the labels and weights of the query sets.

    Args:
        x: The inputs of a batch of tasks.
        y: Labels, nested, `[tasks, queries, ...]` each.
        sample_weight: `None` or weights, nested, `[tasks, queries]` each.

    Returns:
        The labels as tensors. Sizes that are unknown here are checked when
        the labels are computed.

    Raises:
        ValueError: If there are no labels, or if labels or weights do not fit
            the examples.
    """
    if y is None:
        raise ValueError(
            "The query sets need labels to learn from or to be evaluated on. "
            "Received: y=None. Yield `(x, query_y)`."
        )
    y = as_nested_tensors("query_y", y)
    labels = keras.tree.flatten(y)
    checks = _check_labels_of_queries(x, labels)
    weights = [w for w in keras.tree.flatten(sample_weight) if w is not None]
    if sample_weight is not None and not weights:
        raise ValueError(
            "`sample_weight` must be an array, [tasks, queries], or None. "
            f"Received: sample_weight={sample_weight}"
        )
    for weight in weights:
        shape = as_tensor("sample_weight", weight).shape
        fits = shape.rank is None or (
            shape.rank >= 2
            and any(_is_weight_of(shape, leaf.shape) for leaf in labels)
        )
        if not fits:
            raise ValueError(
                "`sample_weight` must have the shape [tasks, queries] of the "
                f"query labels, {_show([leaf.shape for leaf in labels])}. "
                f"Received: sample_weight.shape={shape}. Keras makes such "
                "weights from class_weight=, for which an example is a whole "
                "task. Pass weights of examples instead."
            )
    if not checks:
        return y
    with tf.control_dependencies(checks):
        return keras.tree.map_structure(tf.identity, y)


def _check_labels_of_queries(
    x: Any, labels: list[tf.Tensor]
) -> list[tf.Operation]:
    """Checks known sizes; returns operations that check the others."""
    if not isinstance(x, dict) or "query_x" not in x:
        return []
    queries = keras.tree.flatten(as_nested_tensors("query_x", x["query_x"]))
    inputs = queries[0].shape if queries else tf.TensorShape(None)
    if (inputs.rank or 0) < 2:
        return []
    if inputs[1] == 0:
        raise ValueError(
            "`query_x` must have at least one query to learn from or to "
            f"evaluate on. Received: query_x.shape={inputs}"
        )
    for shape in (label.shape for label in labels):
        if shape.rank is None:
            continue
        if shape.rank < 2 or not shape[:2].is_compatible_with(inputs[:2]):
            raise ValueError(
                "`query_y` must have the shape [tasks, queries, ...] of "
                f"`query_x`. Received: query_y.shape={shape}, "
                f"query_x.shape={inputs}"
            )
    named = [("query_x", queries[0]), *(("query_y", label) for label in labels)]
    if any(tensor.shape.rank is None for _, tensor in named):
        return []
    return [
        *_size_assertions(named, 0, "tasks"),
        *_size_assertions(named, 1, "queries"),
    ]


def _is_weight_of(weight: tf.TensorShape, label: tf.TensorShape) -> bool:
    if label.rank is None or label.rank < 2:
        return True
    queries = [weight[1], label[1]]
    return weight[:1].is_compatible_with(label[:1]) and (
        None in queries or queries[0] in (1, queries[1])
    )


def _check_not_empty(
    shapes: Iterable[tuple[str, tf.TensorShape]], axis: int, what: str
) -> None:
    for name, shape in shapes:
        if shape[axis] == 0:
            raise ValueError(
                f"`{name}` must have at least one {what} (axis {axis}). "
                f"Received: {name}.shape={shape}"
            )


def _size_assertions(
    named: list[tuple[str, tf.Tensor]], axis: int, what: str
) -> list[tf.Operation]:
    """Returns operations that check that sizes agree and are not 0.

    Args:
        named: Tensors and the names of their arguments.
        axis: The axis that has these sizes.
        what: What they count.
    """
    if all(x.shape[axis] is not None for _, x in named):
        return []
    (first, reference), *others = named
    size = tf.shape(reference)[axis]
    checks = [
        tf.debugging.Assert(
            size > 0,
            [
                f"`{first}` must have at least one of the {what} (axis "
                f"{axis}). Received: {first}.shape =",
                tf.shape(reference),
            ],
        )
    ]
    for name, x in others:
        checks.append(
            tf.debugging.Assert(
                tf.equal(tf.shape(x)[axis], size),
                [
                    f"`{first}` and `{name}` must have the same number of "
                    f"{what} (axis {axis}). Received: {first}.shape =",
                    tf.shape(reference),
                    f"{name}.shape =",
                    tf.shape(x),
                ],
            )
        )
    return checks


def _input_specs(model: keras.Model) -> list[tf.TensorSpec] | None:
    """Returns the specs of a model's inputs without the batch, if known."""
    try:
        return [tf.TensorSpec(x.shape[1:], x.dtype) for x in model.inputs]
    except (AttributeError, TypeError):
        return None


def _fit_to_model(name: str, x: tf.Tensor, spec: tf.TensorSpec) -> tf.Tensor:
    """Returns inputs with the sizes that a model takes."""
    shape = spec.shape
    if x.shape.rank is None:
        x = tf.ensure_shape(x, [None, None, *shape])
    if x.dtype == tf.string != spec.dtype:
        raise TypeError(
            f"`{name}` must be of the model's type, {spec.dtype.name}. "
            "Received: strings. Turn words into numbers first, or begin the "
            "model with a layer such as keras.layers.TextVectorization."
        )
    if _differs_by_last_axis(x.shape[2:], shape):
        return x
    if not x.shape[2:].is_compatible_with(shape):
        wanted = ", ".join(map(str, ("tasks", "examples", *shape)))
        raise ValueError(
            f"`{name}` must have the shape [{wanted}], as the model's input. "
            f"Received: {name}.shape={x.shape}"
        )
    if x.shape[2:].is_fully_defined():
        return x
    return tf.ensure_shape(x, [*x.shape[:2], *shape])


def _differs_by_last_axis(given: tf.TensorShape, taken: tf.TensorShape) -> bool:
    """Whether one shape lacks the other's last axis, of size 1.

    Keras adds or drops it itself.
    """
    short, long = sorted([given, taken], key=lambda shape: shape.rank)
    return long.rank == short.rank + 1 and long[-1] == 1


def _squeeze(weight: tf.Tensor | None) -> tf.Tensor | None:
    """Drops last axes of size 1 behind `[tasks, n]`, as Keras does."""
    while weight is not None and (weight.shape.rank or 0) > 2:
        if weight.shape[-1] != 1:
            break
        weight = tf.squeeze(weight, -1)
    return weight


def _show(shapes):
    return shapes[0] if len(shapes) == 1 else shapes
