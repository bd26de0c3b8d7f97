"""Descriptions of update rules, checked before anything is built.

A description is what Keras writes about an object: its class and the
arguments of its constructor. Keras builds whatever class a description names,
and those in its arguments, so both are looked up and checked here first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_meta.update_rules.update_rule import UpdateRule

_KINDS = {"class_name": str, "registered_name": str, "config": dict}
# Classes that may be among the arguments of a rule.
_PARTS = (UpdateRule, keras.DTypePolicy, keras.initializers.Initializer)
_KERAS = {"keras": keras, "keras.initializers": keras.initializers}
# How Keras writes tuples and arrays.
_DATA = ("__tuple__", "__numpy__")


def describe(rule: UpdateRule) -> dict[str, Any]:
    """Returns a description from which `build` makes the rule again.

    Args:
        rule: The rule, whose weights are not part of the description.

    Raises:
        ValueError: If no rule can be built from the description.
    """
    description = keras.saving.serialize_keras_object(rule)
    # What Keras notes of shapes at building is read from the weights.
    description.pop("build_config", None)
    class_of(description, f"The config of {type(rule).__name__}")
    return description


def class_of(description: Mapping[str, Any], source: Any) -> type[UpdateRule]:
    """Returns the class of the rule that is described, and builds nothing.

    Args:
        description: What `describe` returned, or what a file holds instead.
        source: Where it comes from; error messages begin with it.

    Raises:
        ValueError: If it is not the description of a registered rule, or if
            an argument is of a class that cannot be part of a rule, or is a
            number that is not finite.
    """
    for key, kind in _KINDS.items():
        if not isinstance(description.get(key), kind):
            raise ValueError(
                f"{source} must describe an update rule by {sorted(_KINDS)}, "
                f"of which {key!r} must be a {kind.__name__}. Received: "
                f"{key}={description.get(key)!r}"
            )
    rule_class = _find(description)
    if rule_class is None or not issubclass(rule_class, UpdateRule):
        raise ValueError(
            f"{source} must describe an update rule, a registered subclass of "
            "keras_meta.UpdateRule. Received: "
            f"registered_name={description['registered_name']!r}, "
            f"class_name={description['class_name']!r}. Decorate a class of "
            "your own with keras.saving.register_keras_serializable() and "
            "import it first."
        )
    for value in _nested(description["config"]):
        _check_argument(value, source)
    return rule_class


def shapes_of(description: Mapping[str, Any], source: Any) -> list[Any]:
    """Returns shape and type of a rule's weights, and allocates none.

    Args:
        description: A description that `class_of` accepts.
        source: See `class_of`.

    Raises:
        ValueError: If the class does not take the arguments.
    """
    # Variables of a graph that nobody runs take no memory.
    with tf.Graph().as_default():
        weights = build(description, source).weights
        return [(tuple(w.shape), w.dtype) for w in weights]


def build(description: Mapping[str, Any], source: Any) -> UpdateRule:
    """Makes the rule that is described, with new weights.

    Args:
        description: See `class_of`, which is called first.
        source: See `class_of`.

    Raises:
        ValueError: See `class_of`; or if the class does not take the
            arguments.
    """
    rule_class = class_of(description, source)
    try:
        return rule_class.from_config(dict(description["config"]))
    except Exception as error:
        # Keras wraps what the constructor said.
        reason = error.__context__ or error
        raise ValueError(
            f"{source} holds arguments that {rule_class.__name__} does not "
            f"take: {reason}"
        ) from error


def _find(entry: Mapping[str, Any]) -> type | None:
    """Returns the class that an entry names, if it is known already."""
    name, registered = entry["class_name"], entry.get("registered_name")
    module = entry.get("module")
    found = None
    if isinstance(registered, str):
        found = keras.saving.get_registered_object(registered)
    elif isinstance(name, str) and isinstance(module, str):
        found = getattr(_KERAS.get(module), name, None)
    is_class = isinstance(found, type) and found.__name__ == name
    return found if is_class else None


def _nested(config: Any) -> Iterator[Any]:
    """Yields all values in nested dicts and lists, these too."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        yield value
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _check_argument(value: Any, source: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(
            f"{source} must hold finite numbers. Received: {value!r}"
        )
    if not isinstance(value, dict) or "class_name" not in value:
        return
    if value["class_name"] in _DATA:
        return
    found = _find(value)
    if found is None or not issubclass(found, _PARTS):
        raise ValueError(
            f"{source} may hold plain values, registered update rules, and "
            "Keras's initializers and dtype policies as arguments. Received: "
            f"class_name={value['class_name']!r}"
        )
