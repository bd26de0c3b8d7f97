"""A recurrent network that classifies the items of labelled sequences."""

from __future__ import annotations

from typing import Any
from typing import Self

import keras
import tensorflow as tf

from keras_meta.checks import check_at_least
from keras_meta.checks import describe
from keras_meta.sequence.output_size import output_size


@keras.saving.register_keras_serializable("keras_meta")
class SequenceClassifier(keras.Model):
    """Classifies each item of a sequence, given the labels before it.

    At each step, a recurrent cell gets an item, embedded, beside the label of
    the item before, and a linear layer makes logits for the item. The label
    of the item itself comes with the next one. So the network must keep what
    it has seen until a class comes again.

    `keras_meta.episodes.LabelledSequences` makes such sequences, and
    `InstanceAccuracy` measures how well the first, the second, ... item of a
    class is classified. `keras_meta.MANN` is the learner for episodes with
    the same network.

    Args:
        encoder: A built Keras model with one output of a known size, which is
            flattened.
        cell: A cell for `keras.layers.RNN`, such as `MemoryCell`, or
            `keras.layers.LSTMCell` for the baseline of the paper.
        ways: Number of classes in a sequence.
        **kwargs: `name`; see `keras.Model`.

    Raises:
        TypeError: If `cell` is not a cell.
        ValueError: If `ways` is below 2 or the size of embeddings is unknown.

    Example:
    >>> import keras
    >>> import keras_meta
    >>> import numpy as np
    >>>
    >>> points = np.random.default_rng(0).normal(size=[40, 2])
    >>> classes = keras_meta.episodes.load_arrays(points, np.arange(40) // 5)
    >>> sequences = keras_meta.episodes.LabelledSequences(
    ...     classes.sampler(ways=3, shots=1, queries=3)
    ... )
    >>> encoder = keras.Sequential([keras.Input([2]), keras.layers.Identity()])
    >>> cell = keras_meta.sequence.MemoryCell(units=8, slots=12, slot_size=4)
    >>> network = keras_meta.sequence.SequenceClassifier(encoder, cell, ways=3)
    >>> x, y = sequences.draw(0, tasks=4)
    >>> network(x).shape
    TensorShape([4, 12, 3])

    It is trained as any Keras model:

    ```python
    network.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras_meta.sequence.InstanceAccuracy(k) for k in (1, 2, 10)],
    )
    network.fit(sequences.dataset(tasks=16), steps_per_epoch=1000)
    ```

    References:
        - [Santoro et al., 2016](https://arxiv.org/abs/1605.06065), sections
          2.1 and 4.2.
    """

    def __init__(
        self, encoder: keras.Model, cell: keras.Layer, ways: int, **kwargs: Any
    ):
        super().__init__(**kwargs)
        check_at_least(2, ways=ways)
        if not hasattr(cell, "state_size"):
            raise TypeError(
                "`cell` must be a cell for keras.layers.RNN, such as "
                "keras_meta.sequence.MemoryCell(). Received: "
                f"cell={describe(cell)}"
            )
        self.encoder = encoder
        self.cell = cell
        self.ways = int(ways)
        self.reader = keras.layers.RNN(
            cell, return_sequences=True, return_state=True, name="reader"
        )
        self.head = keras.layers.Dense(self.ways, name="head")
        shape = (None, None, output_size(encoder) + self.ways)
        self.reader.build(shape)
        self.head.build(self.reader.compute_output_shape(shape)[0])
        self.built = True

    def call(
        self, inputs: dict[str, tf.Tensor], training: bool = False
    ) -> tf.Tensor:
        """Returns logits for all items, `[sequences, n, ways]`.

        Args:
            inputs: `"items"`, `[sequences, n, ...]`, and `"previous_y"`, for
                each item the label of the one before, `[sequences, n,
                ways]`.
            training: Whether to train.
        """
        items, labels = inputs["items"], inputs["previous_y"]
        self._check_labels(labels)
        flat = tf.reshape(items, tf.concat([[-1], tf.shape(items)[2:]], 0))
        flat = tf.ensure_shape(flat, [None, *items.shape[2:]])
        x = self.encoder(flat, training=training)
        labels = tf.cast(labels, x.dtype)
        size = tf.TensorShape(x.shape[1:]).num_elements()
        x = tf.reshape(x, [*tf.unstack(tf.shape(labels)[:2]), size])
        return self.head(self.read(tf.concat([x, labels], axis=-1))[0])

    def _check_labels(self, labels: tf.Tensor) -> None:
        shape = labels.shape
        if shape.rank != 3 or shape[-1] != self.ways:
            raise ValueError(
                "`previous_y` must be one-hot labels of the items before, "
                f"[sequences, n, ways={self.ways}]. Received: "
                f"previous_y.shape={shape}. Make it with "
                "keras_meta.episodes.offset_labels."
            )

    def read(self, x: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """Returns the cell's outputs for sequences, and its last state.

        Args:
            x: Embedded items beside labels, `[sequences, n, d + ways]`.
        """
        outputs, *states = self.reader(x)
        return outputs, states

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "cell": keras.saving.serialize_keras_object(self.cell),
            "ways": self.ways,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a network from `get_config`'s dict."""
        parts = {
            name: keras.saving.deserialize_keras_object(config[name])
            for name in ("encoder", "cell")
        }
        return cls(**{**config, **parts})
