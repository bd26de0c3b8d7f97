"""Layer rules: how a layer computes with one set of weights per task.

A rule is a function `rule(layer, scope, inputs, ...)` that returns what the
layer would return for each task alone, all tasks merged into the batch axis.
It is found by the layer's exact class: a subclass may compute differently,
so it takes the per-task fallback.
"""

from keras_meta.batching.layer_rules import convolution
from keras_meta.batching.layer_rules import core
from keras_meta.batching.layer_rules import normalization
from keras_meta.batching.layer_rules import pooling
from keras_meta.batching.layer_rules.registry import Rule
from keras_meta.batching.layer_rules.registry import find_rule

__all__ = [
    "Rule",
    "convolution",
    "core",
    "find_rule",
    "normalization",
    "pooling",
]
