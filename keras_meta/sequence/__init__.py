"""Layers that read the examples of a task as a sequence.

`keras_meta.SNAIL` is made of them. They are Keras layers, and work in any
model of sequences.
"""

from keras_meta.sequence.causal_attention import CausalAttention
from keras_meta.sequence.causal_layer import CausalLayer
from keras_meta.sequence.gated_convolution import GatedConvolution
from keras_meta.sequence.temporal_convolution import TemporalConvolution

__all__ = [
    "CausalAttention",
    "CausalLayer",
    "GatedConvolution",
    "TemporalConvolution",
]
