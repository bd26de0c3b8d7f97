"""A network that is a loss."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import as_seed
from keras_meta.checks import check_positive
from keras_meta.checks import describe

ops = keras.ops


@keras.saving.register_keras_serializable("keras_meta")
class LossNetwork(keras.layers.Layer):
    """A network of label and prediction whose output is a loss.

    For each example, with `[y; p]` the label and the prediction side by side,

        loss = base(y, p) + softplus(head(hidden([y; p])))

    The inner loop sees the derivative by `p` alone. A constant added to the
    loss changes nothing, so a bias in front of a *linear* output would learn
    nothing, and there is none then. A factor of the loss counts as a factor
    of a gradient step's length: before you say that a learned loss is better
    than another, tune the other's rate.

    With `base`, training starts from that loss, as the last kernel starts at
    zero. Without it, the first loss is a random function of the prediction.
    It may push predictions away from the labels, which meta-training
    corrects.

    Classes are seen in order. A loss that is to treat all classes alike
    learns it only if tasks number their classes at random.

    Args:
        units: Sizes of the hidden layers.
        activation: Activation of the hidden layers. With `"elu"` the
            derivative of the loss has no jumps, unlike with `"relu"`.
        base: A loss that the network is added to, its name, a function of
            `(y_true, y_pred)`, or `None`. It compares examples alone and
            takes labels of the predictions' shape, as
            `categorical_crossentropy`.
        output_activation: What keeps the network's output from falling
            without bound, `"softplus"` by default; `None` for a linear
            output.
        seed: Seed of the initial weights; by default random.
        **kwargs: `name`, `dtype`; see `keras.Layer`. A loss computes in
            Keras's `floatx` by default, whatever the dtype policy.

    Raises:
        ValueError: If an argument is out of range.

    Example:
    >>> import keras
    >>> import keras_meta
    >>> net = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> loss = keras_meta.LossNetwork([20, 20], base="mse")
    >>> learner = keras_meta.MAML(net, 0.1, inner_loss=loss)
    >>> learner.compile("adam", "mse")

    References:
        - [Bechtle et al., 2021](https://arxiv.org/abs/1906.05374), section
          III-A. There the network has neither biases nor a base, ReLU, and 50
          units in each of two layers.
    """

    def __init__(
        self,
        units: Sequence[int] = (50, 50),
        activation: str | Callable = "elu",
        *,
        base: str | keras.losses.Loss | Callable | None = None,
        output_activation: str | Callable | None = "softplus",
        seed: int | None = None,
        **kwargs: Any,
    ):
        kwargs.setdefault("dtype", keras.config.floatx())
        super().__init__(**kwargs)
        self.units = _as_units(units)
        self.activation = keras.activations.get(activation)
        self.output_activation = keras.activations.get(output_activation)
        self.base = _as_base(base)
        self.seed = as_seed(seed)
        self.hidden = [
            keras.layers.Dense(
                size,
                self.activation,
                kernel_initializer=self._initializer(i),
                dtype=self.dtype_policy,
                name=f"hidden_{i}",
            )
            for i, size in enumerate(self.units)
        ]
        is_linear = self.output_activation is keras.activations.linear
        self.head = keras.layers.Dense(
            1,
            self.output_activation,
            # Adding a constant changes no gradient by the prediction.
            use_bias=not is_linear,
            kernel_initializer=(
                self._initializer(len(self.units))
                if self.base is None
                else "zeros"
            ),
            dtype=self.dtype_policy,
            name="head",
        )

    def build(
        self, y_true_shape: Sequence[int], y_pred_shape: Sequence[int]
    ) -> None:
        """Makes the weights.

        Args:
            y_true_shape: Shape of the labels, `[n, ...]`.
            y_pred_shape: Shape of the predictions, the same.
        """
        # Predictions of the shape [n] get a last axis.
        outputs = y_pred_shape[-1] if len(y_pred_shape) > 1 else 1
        if outputs is None:
            raise ValueError(
                "A loss network needs predictions whose last axis has a known "
                f"size. Received: predictions of the shape {y_pred_shape}"
            )
        width = 2 * outputs
        for layer in [*self.hidden, self.head]:
            layer.build([*y_pred_shape[:-1], width])
            width = layer.units

    def call(self, y_true: Any, y_pred: Any) -> tf.Tensor:
        """Returns a loss for each example.

        Args:
            y_true: Labels, `[n, ..., outputs]` or `[n]`.
            y_pred: Predictions, of the same shape.

        Returns:
            The losses, `[n, ...]`.
        """
        if len(y_pred.shape) == 1:
            y_true, y_pred = y_true[:, None], y_pred[:, None]
        x = ops.concatenate([y_true, y_pred], axis=-1)
        for layer in self.hidden:
            x = layer(x)
        values = ops.squeeze(self.head(x), -1)
        if self.base is None:
            return values
        base: Any = self.base
        if isinstance(base, keras.losses.Loss):
            base = base.call
        return base(y_true, y_pred) + values

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        serialize = keras.activations.serialize
        base = self.base
        return {
            **super().get_config(),
            "units": self.units,
            "activation": serialize(self.activation),
            "base": None if base is None else keras.losses.serialize(base),
            "output_activation": serialize(self.output_activation),
            "seed": self.seed,
        }

    def _initializer(self, i: int) -> keras.initializers.Initializer:
        seed = None if self.seed is None else self.seed + i
        return keras.initializers.GlorotUniform(seed)


def _as_units(units: Any) -> list[int]:
    if not isinstance(units, (list, tuple)):
        raise ValueError(
            "`units` must be a list of the sizes of the hidden layers. "
            f"Received: units={describe(units)}"
        )
    for size in units:
        check_positive(units=size)
    return list(map(int, units))


def _as_base(base: Any) -> keras.losses.Loss | Callable | None:
    if base is None or isinstance(base, keras.Layer):
        found = base
    else:
        found = keras.losses.get(base)
    if isinstance(found, keras.Layer) or "sparse" in _name(found):
        raise ValueError(
            "`base` must be a loss without weights, of labels that have the "
            f"predictions' shape. Received: base={describe(base)}. A loss "
            "network gets class numbers one-hot, as "
            "'categorical_crossentropy' takes them."
        )
    return found


def _name(loss: Any) -> str:
    return str(getattr(loss, "name", None) or getattr(loss, "__name__", ""))
