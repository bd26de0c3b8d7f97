"""Memory-augmented networks."""

from __future__ import annotations

from typing import Any
from typing import Self

import keras
import tensorflow as tf

from keras_meta.learners.sequence_learner import SequenceLearner
from keras_meta.sequence.memory_cell import MemoryCell
from keras_meta.sequence.sequence_classifier import SequenceClassifier


@keras.saving.register_keras_serializable("keras_meta")
class MANN(SequenceLearner):
    """Classifies a query by what a recurrent network remembers.

    A recurrent cell reads the embedded support set. Beside each example it
    gets the label of the one before, so it has to bind what it sees to what
    it is told a step later. Its state after the support set is how the task
    is adapted to. A query comes with the label of the last example, and a
    linear layer makes logits from the cell's output. With `MemoryCell`, this
    is a memory-augmented network; with `keras.layers.LSTMCell(200)`, it is
    the LSTM that the paper compares with.

    The paper trains on sequences that show each class ten times, and
    classifies every item. To train so, compile and fit `learner.network`,
    which shares all weights, on `keras_meta.episodes.LabelledSequences`.

    It is an early method, and slow to learn. `PrototypicalNetwork` is better
    and faster where tasks are small sets of examples. A memory is useful where
    examples come as a stream, which no other learner here takes.

    Args:
        encoder: See `SequenceLearner`. The paper has none: images are
            flattened.
        ways: Number of classes in a task.
        cell: A cell for `keras.layers.RNN`; by default `MemoryCell()`, with
            the sizes of the paper.
        **kwargs: `seed` of the orders of support sets, `batch_statistics`,
            `name`; see `SequenceLearner`.

    Attributes:
        network: The network, a `keras_meta.sequence.SequenceClassifier`.

    Raises:
        TypeError: If `cell` is not a cell.

    Example:
    >>> import keras
    >>> import keras_meta
    >>> import numpy as np
    >>>
    >>> encoder = keras.Sequential([keras.Input([2]), keras.layers.Dense(4)])
    >>> cell = keras_meta.sequence.MemoryCell(units=8, slots=12, slot_size=4)
    >>> learner = keras_meta.MANN(encoder, 3, cell)
    >>> x = {
    ...     "support_x": np.random.normal(size=[8, 6, 2]),
    ...     "support_y": np.tile([0, 1, 2, 0, 1, 2], [8, 1]),
    ...     "query_x": np.random.normal(size=[8, 3, 2]),
    ... }
    >>> learner(x).shape
    TensorShape([8, 3, 3])

    References:
        - [Santoro et al., 2016](https://arxiv.org/abs/1605.06065).
    """

    def __init__(
        self,
        encoder: keras.Model,
        ways: int,
        cell: keras.Layer | None = None,
        **kwargs: Any,
    ):
        super().__init__(encoder, ways, **kwargs)
        cell = MemoryCell() if cell is None else cell
        self.network = SequenceClassifier(encoder, cell, self.ways)

    def read_support(
        self, x: tf.Tensor, classes: tf.Tensor
    ) -> tuple[Any, tf.Tensor]:
        """Returns the cell's state and the last label, `[tasks, ways]`."""
        labels = tf.pad(classes, [[0, 0], [1, 0], [0, 0]])
        items = tf.concat([x, labels[:, :-1]], axis=-1)
        _, state = self.network.read(items)
        return state, labels[:, -1]

    def answer(self, adapted: tuple[Any, tf.Tensor], x: tf.Tensor) -> tf.Tensor:
        """Returns logits; see `SequenceLearner.answer`."""
        queries = tf.shape(x)[1]
        state, label = keras.tree.map_structure(
            lambda part: tf.repeat(part, queries, axis=0), adapted
        )
        items = tf.concat([tf.reshape(x, [-1, x.shape[-1]]), label], axis=-1)
        outputs, _ = self.network.cell(items, state)
        logits = self.network.head(outputs)
        return tf.reshape(logits, [-1, queries, self.ways])

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        cell = keras.saving.serialize_keras_object(self.network.cell)
        return {**super().get_config(), "cell": cell}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a learner from `get_config`'s dict."""
        cell = keras.saving.deserialize_keras_object(config["cell"])
        return super().from_config({**config, "cell": cell})
