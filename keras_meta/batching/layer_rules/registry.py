"""The table of layer rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras


@dataclasses.dataclass(frozen=True)
class Rule:
    """A layer rule and when it is used.

    Attributes:
        compute: `compute(layer, scope, inputs, ...)`, the layer's outputs.
        always: Used even if no weight of the layer adapts, because the plain
            layer would mix tasks or has a wrong second derivative.
        in_xla: Used for such layers where XLA compiles for the CPU, because
            the plain layer is slower there.
        supports: Returns whether the rule covers the settings of a layer.
    """

    compute: Callable
    always: bool
    in_xla: bool
    supports: Callable[[keras.Layer], bool]


_RULES: dict[type, Rule] = {}


def rule(
    *layer_classes: type,
    always: bool = False,
    in_xla: bool = False,
    supports: Callable[[keras.Layer], bool] = lambda layer: True,
) -> Callable[[Callable], Callable]:
    """Registers the decorated function as the rule of the given classes."""

    def register(compute: Callable) -> Callable:
        for layer_class in layer_classes:
            _RULES[layer_class] = Rule(compute, always, in_xla, supports)
        return compute

    return register


def find_rule(layer: keras.Layer) -> Rule | None:
    """Returns the rule that covers `layer`, or `None`."""
    found = _RULES.get(type(layer))
    if found is None or not found.supports(layer) or _is_rewritten(layer):
        return None
    return found


def _is_rewritten(layer: keras.Layer) -> bool:
    quantized = getattr(layer, "quantization_mode", None) is not None
    # A layer may have been given another `call` than that of its class.
    replaced = "call" in vars(layer)
    return quantized or replaced or bool(getattr(layer, "lora_enabled", False))
