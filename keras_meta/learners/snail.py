"""SNAIL: temporal convolutions and attention over the support set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_positive
from keras_meta.checks import describe
from keras_meta.episodes.arguments import as_integers
from keras_meta.learners.sequence_learner import SequenceLearner
from keras_meta.sequence.causal_attention import CausalAttention
from keras_meta.sequence.causal_layer import CausalLayer
from keras_meta.sequence.causal_layer import build_all
from keras_meta.sequence.causal_layer import follow_through
from keras_meta.sequence.causal_layer import read_through
from keras_meta.sequence.temporal_convolution import TemporalConvolution

_ATTENTION = ((64, 32), (256, 128), (512, 256))


@keras.saving.register_keras_serializable("keras_meta")
class SNAIL(SequenceLearner):
    """Classifies the last item of a sequence of labelled examples.

    An item is an embedding beside a one-hot label. The items are those of the
    support set, in order, and then a query, whose label is zero. Blocks of
    causal attention alternate with temporal convolutions: attention finds
    single examples, convolutions aggregate. A linear layer makes logits from
    the query's item alone.

    No item sees later ones. So a support set is read once, and its queries
    share what was computed for it.

    It learns its own way to compare, which needs many training tasks. Weights
    depend on `ways`. Tasks may have other numbers of shots than `shots`:
    attention sees all examples, convolutions the last `ways * shots` or more.
    For fast training and few tasks, see `PrototypicalNetwork`.

    Args:
        encoder: See `SequenceLearner`. The paper has 64 outputs for Omniglot.
        ways: Number of classes in a task.
        shots: Number of support examples of each class, which determines how
            far the convolutions reach.
        filters: Channels that each convolution appends.
        attention: Sizes of keys and of values of each attention block. There
            is a temporal convolution between one block and the next.
        **kwargs: `seed` of the orders of support sets, `batch_statistics`,
            `name`; see `SequenceLearner`.

    Raises:
        ValueError: If a size is not positive.

    Example:
    >>> import keras
    >>> import keras_meta
    >>> import numpy as np
    >>>
    >>> encoder = keras.Sequential([keras.Input([2]), keras.layers.Dense(4)])
    >>> learner = keras_meta.SNAIL(
    ...     encoder, ways=3, shots=2, filters=8, attention=[(4, 4), (8, 8)]
    ... )
    >>> x = {
    ...     "support_x": np.random.normal(size=[8, 6, 2]),
    ...     "support_y": np.tile([0, 1, 2, 0, 1, 2], [8, 1]),
    ...     "query_x": np.random.normal(size=[8, 3, 2]),
    ... }
    >>> learner(x).shape
    TensorShape([8, 3, 3])

    References:
        - [Mishra et al., 2018](https://arxiv.org/abs/1707.03141), section 3
          and appendix A.
    """

    def __init__(
        self,
        encoder: keras.Model,
        ways: int,
        shots: int,
        *,
        filters: int = 128,
        attention: Sequence[tuple[int, int]] = _ATTENTION,
        **kwargs: Any,
    ):
        super().__init__(encoder, ways, **kwargs)
        check_positive(shots=shots, filters=filters)
        self.shots = int(shots)
        self.filters = int(filters)
        self.attention = _as_pairs(attention)
        length = self.ways * self.shots + 1
        self.body = _alternating(self.attention, self.filters, length)
        size = build_all(self.body, self.size_of_item)
        self.head = keras.layers.Dense(self.ways, name="head")
        self.head.build((None, None, size))

    def read_support(self, x: tf.Tensor, classes: tf.Tensor) -> list[Any]:
        """Returns what each block keeps of the support sets."""
        return read_through(self.body, tf.concat([x, classes], axis=-1))[1]

    def answer(self, adapted: list[Any], x: tf.Tensor) -> tf.Tensor:
        """Returns logits; see `SequenceLearner.answer`."""
        unknown = tf.zeros_like(x[..., :1])
        items = tf.concat([x, tf.repeat(unknown, self.ways, axis=-1)], -1)
        return self.head(follow_through(self.body, items, adapted))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "shots": self.shots,
            "filters": self.filters,
            "attention": self.attention,
        }


def _alternating(
    attention: Sequence[Sequence[int]], filters: int, length: int
) -> list[CausalLayer]:
    """Returns attention blocks with a convolution between each two."""
    blocks: list[CausalLayer] = []
    for key_size, value_size in attention:
        if blocks:
            blocks.append(TemporalConvolution(filters, length))
        blocks.append(CausalAttention(key_size, value_size))
    return blocks


def _as_pairs(attention: Any) -> tuple[tuple[int, ...], ...]:
    """Returns the sizes of attention blocks, and checks them."""
    try:
        pairs = tuple(tuple(as_integers("attention", p)) for p in attention)
    except (NotImplementedError, TypeError, ValueError):
        # A symbolic tensor cannot be iterated over.
        pairs = ()
    if not pairs or any(len(p) != 2 or min(p) < 1 for p in pairs):
        raise ValueError(
            "`attention` must be a list of pairs of positive integers, the "
            "sizes of keys and of values, such as [(64, 32), (256, 128)]. "
            f"Received: attention={describe(attention)}"
        )
    return pairs
