"""A plain model of one task, for learners without an inner loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("keras_meta")
class TaskClassifier(keras.Model):
    """Classifies examples of one task, to which a learner has adapted.

    `adapt` of a learner that works on embeddings returns one. Its outputs are
    logits, `[n, ways]`. What the learner knows of the task, such as the means
    of the classes, is kept in weights that do not train.

    Args:
        learner: A learner, which the model keeps.
        adapted: What `adapt_tasks` of the learner returned for one task:
            tensors `[1, ...]` in lists, tuples and dicts; or, in their
            places, strings such as `"float32 1 5 64"` for zeros.
        **kwargs: `name`; see `keras.Model`.

    Raises:
        ValueError: If `adapted` has other containers.
    """

    def __init__(self, learner: Any, adapted: Any, **kwargs: Any):
        super().__init__(**kwargs)
        _check_containers(adapted)
        self.learner = learner
        self._described = keras.tree.map_structure(_description, adapted)
        self._state = [self._keep(x) for x in keras.tree.flatten(adapted)]

    def build(self, input_shape: Any) -> None:
        """Leaves everything as it is. Keras notes the shape for `export`."""

    def _keep(self, value: Any) -> keras.Variable:
        """Returns a variable with a value, or with zeros."""
        dtype, *shape = _description(value).split()
        variable = self.add_weight(
            shape=tuple(map(int, shape)),
            initializer="zeros",
            dtype=dtype,
            trainable=False,
            autocast=False,
            name="adapted",
        )
        if not isinstance(value, str):
            variable.assign(value)
        return variable

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """Returns logits, `[n, ways]`.

        Args:
            inputs: Examples, nested as the encoder expects them, each
                `[n, ...]`.
            training: Without effect.
        """
        values = [tf.convert_to_tensor(x.value) for x in self._state]
        adapted = keras.tree.pack_sequence_as(self._described, values)
        x = keras.tree.map_structure(lambda x: x[tf.newaxis], inputs)
        return self.learner.answer(adapted, self.learner.embed(x))[0]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "learner": serialize(self.learner),
            "adapted": serialize(self._described),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TaskClassifier:
        """Makes a model from `get_config`'s dict."""
        deserialize: Callable = keras.saving.deserialize_keras_object
        parts = {k: deserialize(config[k]) for k in ("learner", "adapted")}
        return cls(**{**config, **parts})


def _description(value: Any) -> str:
    """Returns the type and the shape of a tensor, such as `"float32 1 5"`."""
    if isinstance(value, str):
        return value
    return " ".join([value.dtype.name, *map(str, value.shape)])


def _check_containers(adapted: Any) -> None:
    """Refuses containers that would not be the same after saving."""
    if isinstance(adapted, dict):
        adapted = [*adapted.values()]
    elif not isinstance(adapted, (list, tuple)):
        return
    elif type(adapted) not in (list, tuple):
        raise ValueError(
            "What `adapt_tasks` returns must be tensors in lists, tuples and "
            "dicts, for `adapt` to make a model that can be saved. Received: "
            f"{type(adapted).__name__}"
        )
    for part in adapted:
        _check_containers(part)
