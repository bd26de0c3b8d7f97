"""Layers that read the examples of a task as a sequence.

`keras_meta.SNAIL` and `keras_meta.MANN` are made of them. They are Keras
layers, and work in any model of sequences. `SequenceClassifier` classifies
every item of a sequence whose labels come one item late, and
`InstanceAccuracy` measures it as published.
"""

from keras_meta.sequence.causal_attention import CausalAttention
from keras_meta.sequence.causal_layer import CausalLayer
from keras_meta.sequence.gated_convolution import GatedConvolution
from keras_meta.sequence.instance_accuracy import InstanceAccuracy
from keras_meta.sequence.memory_cell import MemoryCell
from keras_meta.sequence.sequence_classifier import SequenceClassifier
from keras_meta.sequence.temporal_convolution import TemporalConvolution

__all__ = [
    "CausalAttention",
    "CausalLayer",
    "GatedConvolution",
    "InstanceAccuracy",
    "MemoryCell",
    "SequenceClassifier",
    "TemporalConvolution",
]
