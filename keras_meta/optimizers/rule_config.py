"""Descriptions of update rules, checked before anything is built.

A description is Keras's serialization of an object: its class and the
arguments of its constructor. Keras would build any class that a description or
one of its arguments names, so this module looks up and checks them first.
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
# Classes that arguments of a rule may have.
_PARTS = (UpdateRule, keras.DTypePolicy, keras.initializers.Initializer)
_KERAS = {"keras": keras, "keras.initializers": keras.initializers}
# Class names by which Keras serializes tuples and arrays.
_DATA = ("__tuple__", "__numpy__")


def describe(rule: UpdateRule) -> dict[str, Any]:
    """Returns a description from which `build` can make the rule.

    Args:
        rule: The rule. Its weights are not part of the description.

    Raises:
        ValueError: If no rule can be built from the description.
    """
    description = keras.saving.serialize_keras_object(rule)
    # The shapes that Keras records here are known from the weights.
    description.pop("build_config", None)
    class_of(description, f"The config of {type(rule).__name__}")
    return description


def class_of(description: Mapping[str, Any], source: Any) -> type[UpdateRule]:
    """Returns the class of the described rule without building anything.

    Args:
        description: The result of `describe`, or the content of a file.
        source: Origin of the description. Error messages start with it.

    Raises:
        ValueError: If the description is not that of a registered rule, if
            the class of an argument is not allowed, or if a number is not
            finite.
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
    """Returns shape and type of a rule's weights without allocating them.

    Args:
        description: A description that `class_of` accepts.
        source: See `class_of`.

    Raises:
        ValueError: If the class does not accept the arguments.
    """
    # Variables in a graph that is never run take no memory.
    with tf.Graph().as_default():
        weights = build(description, source).weights
        return [(tuple(w.shape), w.dtype) for w in weights]


def build(description: Mapping[str, Any], source: Any) -> UpdateRule:
    """Builds the described rule with new weights.

    Args:
        description: See `class_of`, which is called first.
        source: See `class_of`.

    Raises:
        ValueError: See `class_of`. Also if the class does not accept the
            arguments.
    """
    rule_class = class_of(description, source)
    try:
        return rule_class.from_config(dict(description["config"]))
    except Exception as error:
        # Keras wraps the constructor's error.
        reason = error.__context__ or error
        raise ValueError(
            f"{source} has arguments that {rule_class.__name__} does not "
            f"accept: {reason}"
        ) from error


def _find(entry: Mapping[str, Any]) -> type | None:
    """Returns the class that an entry names, if it is registered."""
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
    """Yields nested dicts and lists, and all values in them."""
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
            f"{source} must contain finite numbers. Received: {value!r}"
        )
    if not isinstance(value, dict) or "class_name" not in value:
        return
    if value["class_name"] in _DATA:
        return
    found = _find(value)
    if found is None or not issubclass(found, _PARTS):
        raise ValueError(
            f"{source} must have only plain values, registered update rules, "
            "and Keras's initializers and dtype policies as arguments. "
            f"Received: class_name={value['class_name']!r}"
        )
