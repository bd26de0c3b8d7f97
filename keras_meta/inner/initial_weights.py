"""Drawing initial weights, as a function of seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

# Words of random bits that the initial value of a variable takes.
WORDS = 2


def draw(
    variables: Sequence[keras.Variable],
    initializers: Sequence[Any],
    words: tf.Tensor,
) -> list[tf.Tensor]:
    """Draws initial values.

    Args:
        variables: Variables of the shapes to draw.
        initializers: One for each, as `initializers_of` returns them.
        words: Random words, `[WORDS * variables]`.
    """
    return [
        _initial(v, initializer, words[WORDS * i : WORDS * (i + 1)])
        for i, (v, initializer) in enumerate(
            zip(variables, initializers, strict=True)
        )
    ]


class _GivenSeed(keras.random.SeedGenerator):
    """A seed computed in a graph that Keras's initializers accept."""

    def __init__(self, value: tf.Tensor):
        self._value = value

    def next(self, ordered: bool = True) -> tf.Tensor:
        return self._value


def _initial(
    variable: keras.Variable, initializer: Any, words: tf.Tensor
) -> tf.Tensor:
    """Returns an initial value, as a function of two random words."""
    if initializer is None:
        return tf.convert_to_tensor(variable)
    if isinstance(initializer, _ForgetBias):
        return initializer.around(_initial(variable, initializer.bias, words))
    drawn = type(initializer).from_config(initializer.get_config())
    seed = tf.cast(words, tf.int64)
    drawn.seed = _GivenSeed(seed)
    return drawn(variable.shape, dtype=variable.dtype)


@dataclasses.dataclass(frozen=True)
class _ForgetBias:
    """Biases of an LSTM, which are 1 for the forget gates.

    Attributes:
        bias: Initializer of the other biases.
    """

    bias: keras.initializers.Initializer

    def around(self, drawn: tf.Tensor) -> tf.Tensor:
        """Returns drawn biases, `[4 * units]`, with the ones filled in."""
        enter, keep, *others = tf.split(drawn, 4)
        return tf.concat([enter, tf.ones_like(keep), *others], axis=0)


def initializers_of(
    model: keras.Model,
    variables: Sequence[keras.Variable],
    chosen: keras.initializers.Initializer | None = None,
) -> list[Any]:
    """Returns what draws the initial value of each variable.

    `None` stands for the present value.

    Args:
        model: A built model.
        variables: Weights of it.
        chosen: An initializer for all of them; by default each layer's own.

    Raises:
        ValueError: If an initializer takes no seed.
    """
    own = {}
    for layer in model._flatten_layers():
        for variable in layer._trainable_variables:
            own[id(variable)] = _own_initializer(layer, variable)
    found = [chosen or own.get(id(v)) for v in variables]
    for variable, initializer in zip(variables, found, strict=True):
        known = keras.initializers.Initializer, _ForgetBias
        if initializer is not None and not isinstance(initializer, known):
            raise ValueError(
                "`model` must draw its weights with Keras initializers, whose "
                f"seed can be set. Received: {initializer!r} for "
                f"{variable.path}. Pass `initializer=` for all weights, or "
                "give that layer an instance of keras.initializers."
            )
    return found


def _own_initializer(layer: keras.Layer, variable: keras.Variable) -> Any:
    name = f"{variable.name.removesuffix('_kernel')}_initializer"
    names = f"{variable.name}_initializer", name
    found = [getattr(layer, n, None) for n in names]
    initializer = found[0] or found[1]
    forgets = getattr(layer, "unit_forget_bias", False)
    if forgets and variable.name == "bias" and initializer is not None:
        return _ForgetBias(initializer)
    return initializer
