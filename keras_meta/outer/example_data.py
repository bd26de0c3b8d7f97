"""Examples in memory, and which of them each step learns from."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_meta.batching.output_specs import OutputSpecs
from keras_meta.checks import check_finite_values
from keras_meta.checks import describe
from keras_meta.episodes.arguments import as_array
from keras_meta.inner.class_numbers import ClassNumbers
from keras_meta.inner.inner_loss import InnerLoss

_TRAINING_STREAM = 0
_VALIDATION_STREAM = 1


class Examples(NamedTuple):
    """All examples of a data set.

    Attributes:
        x: Inputs, nested, each `[n, ...]`.
        y: Labels, `[n, ...]`.
        sample_weight: Weights, `[n]`, or `None`.
    """

    x: Any
    y: tf.Tensor
    sample_weight: tf.Tensor | None

    @property
    def size(self) -> int:
        """Number of examples."""
        return self.y.shape[0]

    def at(self, index: tf.Tensor) -> dict[str, Any]:
        """Returns some examples, with their numbers.

        Args:
            index: Their numbers, of any shape.
        """
        return self._with(index, lambda values: tf.gather(values, index))

    def whole(self) -> dict[str, Any]:
        """Returns all examples, with their numbers."""
        return self._with(tf.range(self.size, dtype=tf.int64), lambda x: x)

    def _with(self, index: tf.Tensor, take: Callable) -> dict[str, Any]:
        found = {"x": keras.tree.map_structure(take, self.x), "y": take(self.y)}
        if self.sample_weight is not None:
            found["sample_weight"] = take(self.sample_weight)
        return {**found, "index": index}

    def check_labels(self, name: str, model: keras.Model, loss: Any) -> None:
        """Refuses labels that are no class numbers where they must be.

        Args:
            name: The argument, for errors.
            model: What predicts the labels.
            loss: What compares them.

        Raises:
            ValueError: If the loss takes class numbers, and there are others.
        """
        if isinstance(loss, (dict, list, tuple)):
            # There are several labels, for several outputs.
            return
        ways = OutputSpecs(model).ways(self.x, axes=1)
        classes = ClassNumbers.of(InnerLoss(loss), ways)
        if classes is None:
            return
        others = tf.boolean_mask(
            self.y, tf.logical_not(classes.contain(self.y))
        )
        if len(others):
            raise ValueError(
                f"The labels of `{name}` must be class numbers. "
                f"{classes.requirement} Received: {len(others)} other labels, "
                f"such as {others[0].numpy()}. {classes.way_out}"
            )


def one_source(x: Any, y: Any, sample_weight: Any) -> Any:
    """Returns what `fit` was given, as `load` takes it."""
    if not isinstance(x, tf.data.Dataset):
        return x, y, sample_weight
    if y is not None or sample_weight is not None:
        raise ValueError(
            "A data set yields labels and weights too. Received: x, a "
            "tf.data.Dataset, with `y` or `sample_weight`."
        )
    return x


def load(name: str, data: Any) -> tuple[Examples, int | None]:
    """Returns all examples, and the size of a batch if the data have one.

    Args:
        name: The argument, for errors.
        data: A tuple `(x, y)` or `(x, y, sample_weight)` of arrays, or a
            `tf.data.Dataset` of batches of them.

    Raises:
        TypeError: If the data are neither.
        ValueError: If they are not finite, do not fit together, or there are
            none.
    """
    if isinstance(data, tf.data.Dataset):
        return _read(name, data)
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        raise TypeError(
            f"`{name}` must be arrays (x, y) or (x, y, sample_weight), or a "
            f"tf.data.Dataset of batches of them. Received: {describe(data)}"
        )
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(tuple(data))
    if x is None or y is None:
        raise ValueError(
            f"`{name}` must hold inputs and labels. Received: None."
        )
    with tf.init_scope():
        examples = Examples(
            keras.tree.map_structure(lambda v: _as_tensor(name, v), x),
            _as_tensor(name, y),
            None if sample_weight is None else _as_tensor(name, sample_weight),
        )
    leaves = [leaf for leaf in keras.tree.flatten(examples) if leaf is not None]
    sizes = {leaf.shape[0] if leaf.shape.rank else 0 for leaf in leaves}
    if len(sizes) != 1 or sizes == {0}:
        raise ValueError(
            f"`{name}` must hold as many labels as inputs, and at least one. "
            f"Received: sizes {sorted(sizes)}."
        )
    return examples, None


def _read(name: str, data: tf.data.Dataset) -> tuple[Examples, int]:
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            f"`{name}` must be finite, because it is read once. Received: an "
            "infinite data set. Remove `.repeat()`."
        )
    batches = [keras.utils.unpack_x_y_sample_weight(batch) for batch in data]
    if not batches:
        raise ValueError(
            f"`{name}` must hold examples. Received: an empty data set."
        )
    try:
        x, y, sample_weight = keras.tree.map_structure(
            lambda *parts: np.concatenate(parts), *batches, none_is_leaf=False
        )
    except ValueError as error:
        raise ValueError(
            f"`{name}` must yield batches (x, y) of examples of one shape, as "
            f"`fit` takes them. Received: {data.element_spec}. Add "
            f"`.batch(...)`. {error}"
        ) from error
    examples, _ = load(name, (x, y, sample_weight))
    return examples, batches[0][1].shape[0]


def _as_tensor(name: str, values: Any) -> tf.Tensor:
    check_finite_values(**{name: as_array(name, values)})
    array = values if hasattr(values, "dtype") else np.asarray(values)
    if getattr(array.dtype, "name", None) == "float64":
        # As in `fit`; an array of another type keeps it.
        array = np.asarray(array, keras.config.floatx())
    return tf.convert_to_tensor(array)


@dataclasses.dataclass(frozen=True)
class Windows:
    """Which examples each step learns from.

    Batches go through the examples in another order each time. What a window
    holds depends on its number and the seed alone, so training that is
    resumed sees what it would have seen.

    Attributes:
        training: The training examples.
        validation: The validation examples.
        batch_size: Training examples of a step. If there are no more, every
            step takes all, in their order.
        validation_batch_size: Validation examples of a window.
        batches: Batches of a window.
        stride: Steps from one window to the next.
        seed: Seed of the orders.
    """

    training: Examples
    validation: Examples
    batch_size: int
    validation_batch_size: int
    batches: int
    stride: int
    seed: int

    def dataset(self, first: Callable[[], int]) -> tf.data.Dataset:
        """Returns an endless data set of windows.

        Args:
            first: Called where an iterator begins; returns the number of the
                first window.
        """
        return _numbered(first, self.window)

    def window(self, number: tf.Tensor) -> dict[str, Any]:
        """Returns what a window learns from.

        Args:
            number: Number of the window, int64.

        Returns:
            `"number"`: the number. `"validation"`: the validation examples.
            `"whole"`: the training examples of every step, or `"by_step"`:
            those of each, `[batches, batch_size, ...]`.
        """
        found = {"number": number, "validation": self._validation(number)}
        if self.batch_size >= self.training.size:
            return {**found, "whole": self.training.whole()}
        index = shuffled(
            number * self.stride * self.batch_size,
            self.batches * self.batch_size,
            self.training.size,
            self.seed,
            _TRAINING_STREAM,
        )
        shape = [self.batches, self.batch_size]
        return {**found, "by_step": self.training.at(tf.reshape(index, shape))}

    def _validation(self, number: tf.Tensor) -> dict[str, Any]:
        return _batch(
            self.validation,
            self.validation_batch_size,
            number,
            self.seed,
            _VALIDATION_STREAM,
        )


@dataclasses.dataclass(frozen=True)
class Batches:
    """Batches of examples, which `Windows` describes.

    Attributes:
        examples: All examples.
        size: Examples of a batch. If there are no more, each batch has all.
        seed: Seed of the orders.
    """

    examples: Examples
    size: int
    seed: int

    def dataset(self, first: Callable[[], int]) -> tf.data.Dataset:
        """Returns an endless data set of batches.

        Args:
            first: Called where an iterator begins; returns the number of the
                first batch.
        """
        return _numbered(first, self.batch)

    def batch(self, number: tf.Tensor) -> dict[str, Any]:
        """Returns the number of a batch, and its examples."""
        examples = _batch(
            self.examples, self.size, number, self.seed, _TRAINING_STREAM
        )
        return {"number": number, "examples": examples}


def _numbered(
    first: Callable[[], int], element: Callable[[tf.Tensor], Any]
) -> tf.data.Dataset:
    numbers = tf.data.Dataset.from_generator(
        lambda: itertools.count(first()),
        output_signature=tf.TensorSpec([], tf.int64),
    )
    return numbers.map(element).prefetch(1)


def _batch(
    examples: Examples, size: int, number: tf.Tensor, seed: int, stream: int
) -> dict[str, Any]:
    if size >= examples.size:
        return examples.whole()
    index = shuffled(number * size, size, examples.size, seed, stream)
    return examples.at(index)


def shuffled(
    first: tf.Tensor, count: int, size: int, seed: int, stream: int
) -> tf.Tensor:
    """Returns numbers of examples: all in some order, then in another.

    Args:
        first: Place of the first number in this sequence.
        count: How many numbers to return.
        size: Number of examples.
        seed: Seed of the orders.
        stream: Which sequence of the seed.
    """
    places = first + tf.range(count, dtype=tf.int64)
    seeds = tf.stack(
        [
            tf.fill([count], tf.constant(seed, tf.int64)),
            tf.fill([count], tf.constant(stream, tf.int64)),
            places // size,
        ],
        axis=1,
    )
    last = tf.fill([count], tf.constant(size - 1, tf.int64))
    # Its public form takes one seed for all.
    return tf.raw_ops.RandomIndexShuffle(
        index=places % size, seed=seeds, max_index=last, rounds=4
    )
