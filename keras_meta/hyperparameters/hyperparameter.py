"""Numbers that training depends on and that are learned."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_meta._keras import is_sharing_objects
from keras_meta._keras import shared_object
from keras_meta.checks import check_finite_number
from keras_meta.checks import check_finite_values
from keras_meta.checks import describe

# What a config in a file says of the object it is from.
_SAME = "same"
# What configs of a name stand for, while several objects are made of configs.
_KNOWN: contextvars.ContextVar[dict[str, Hyperparameter] | None] = (
    contextvars.ContextVar("known_hyperparameters", default=None)
)


@keras.saving.register_keras_serializable("keras_meta")
class Hyperparameter(keras.layers.Layer):
    """A number, or an array of them, that training depends on.

    Whatever a training loss computes with can be one: the strength of a
    regularizer, a temperature, label smoothing, a weight for each example. A
    `HyperparameterLearner` learns it by gradient.

    A call returns the value. The variable `raw` holds it without bounds, so
    that no step of an optimizer can leave them:

    | bounds | value |
    | --- | --- |
    | none | `raw` |
    | `minimum` | `minimum + exp(raw)` |
    | `maximum` | `maximum - exp(raw)` |
    | both | `minimum + (maximum - minimum) * sigmoid(raw)` |

    With one bound, a step changes the distance to it by a factor. So
    1e-5 and 10 are equally easy to leave, and the learning rate of the outer
    optimizer is a relative one.

    It is a Keras layer, so a layer that has it as an attribute saves it too.
    Layers or regularizers that share one share it again in a model that is
    loaded from a `.keras` file. `keras.models.clone_model` and `to_json` make
    a copy for each. To leave it as it is, set `trainable=False`.

    Args:
        value: The first value, a number or an array.
        minimum: Lower bound, which is never reached, or `None`.
        maximum: Upper bound, which is never reached, or `None`.
        **kwargs: Further arguments of `keras.layers.Layer`, such as `name`.

    Raises:
        ValueError: If the value is not finite, or not between the bounds.

    Example:
    >>> decay = Hyperparameter(1e-4, minimum=0.0, name="decay")
    >>> float(decay())
    9.99999...e-05
    >>> decay.assign(1e-3)
    """

    def __init__(
        self,
        value: npt.ArrayLike,
        *,
        minimum: float | None = None,
        maximum: float | None = None,
        **kwargs: Any,
    ):
        kwargs.setdefault("dtype", keras.config.floatx())
        super().__init__(**kwargs)
        bounds = {"minimum": minimum, "maximum": maximum}
        check_finite_number(
            **{k: v for k, v in bounds.items() if v is not None}
        )
        self.minimum = minimum
        self.maximum = maximum
        raw = self._without_bounds(value)
        self.raw = self.add_weight(
            name="raw",
            shape=raw.shape,
            # Keras's own initializer rounds to float32.
            initializer=lambda shape, dtype: tf.constant(raw, dtype),
            autocast=False,
        )
        self.built = True

    def __call__(self) -> tf.Tensor:
        """Returns the value, a tensor with a gradient by `raw`."""
        return self._within_bounds(tf.convert_to_tensor(self.raw))

    def numpy(self) -> np.ndarray:
        """Returns the value as an array."""
        return self().numpy()

    def assign(self, value: npt.ArrayLike) -> None:
        """Sets the value.

        Args:
            value: The new value, of the shape of the first one.

        Raises:
            ValueError: If it is not finite, or not between the bounds.
        """
        self.raw.assign(self._without_bounds(value))

    def _within_bounds(self, raw: tf.Tensor) -> tf.Tensor:
        """Returns the value, or a part of it, that `raw` stands for."""
        low, high = self.minimum, self.maximum
        if low is not None and high is not None:
            return low + (high - low) * tf.sigmoid(raw)
        if low is not None:
            return low + tf.exp(raw)
        if high is not None:
            return high - tf.exp(raw)
        return raw

    def _without_bounds(self, value: Any) -> np.ndarray:
        """Returns what stands for a value; raises if nothing does."""
        try:
            value = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            raise ValueError(
                "`value` must be a number or an array of numbers. Received: "
                f"value={describe(value)}"
            ) from None
        check_finite_values(value=value)
        low, high = self.minimum, self.maximum
        above = low is None or bool(np.all(value > low))
        below = high is None or bool(np.all(value < high))
        if not (above and below):
            raise ValueError(
                "`value` must be above `minimum` and below `maximum`, which "
                f"themselves are never reached. Received: "
                f"value={describe(value)}, minimum={low}, maximum={high}. "
                "Begin near the bound instead, such as at 1e-6 for "
                "minimum=0."
            )
        if low is not None and high is not None:
            return np.log(value - low) - np.log(high - value)
        if low is not None:
            return np.log(value - low)
        if high is not None:
            return np.log(high - value)
        return value

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, with the present value.

        In a file of a model, it also says which object this is, for the
        others that share it.
        """
        config = {
            **super().get_config(),
            "value": self.numpy().tolist(),
            "minimum": self.minimum,
            "maximum": self.maximum,
        }
        if is_sharing_objects():
            config[_SAME] = f"hyperparameter_{id(self)}"
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Hyperparameter:
        """Makes a hyperparameter from `get_config`'s dict."""
        config = dict(config)
        same = config.pop(_SAME, None)
        known = _KNOWN.get()
        if known is None and same is not None:
            return shared_object(same, lambda: cls(**config))
        if known is None:
            return cls(**config)
        name = config["name"]
        if name not in known:
            known[name] = cls(**config)
        return known[name]


@contextlib.contextmanager
def shared_by_name(known: Sequence[Hyperparameter] = ()) -> Iterator[None]:
    """Makes one hyperparameter of all configs that have its name.

    Keras's own sharing loses objects that are nested in configs of others.

    Args:
        known: Hyperparameters that exist already.
    """
    token = _KNOWN.set({h.name: h for h in known})
    try:
        yield
    finally:
        _KNOWN.reset(token)


def hyperparameters_of(holder: Any) -> list[Hyperparameter]:
    """Returns the hyperparameters that an object is or says that it has.

    Args:
        holder: A hyperparameter, a regularizer, a loss or a layer. Its
            attribute `hyperparameters`, a list, says what it has.
    """
    if isinstance(holder, Hyperparameter):
        return [holder]
    held = getattr(holder, "hyperparameters", None)
    if not isinstance(held, (list, tuple)):
        return []
    return [x for x in held if isinstance(x, Hyperparameter)]
