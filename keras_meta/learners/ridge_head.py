"""A linear classifier for each task, in closed form."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_positive_number
from keras_meta.kernels.full_product import full_product
from keras_meta.learners.metric_learner import MetricLearner


@keras.saving.register_keras_serializable("keras_meta")
class RidgeHead(MetricLearner):
    """Fits a linear classifier to each support set by ridge regression.

    With embeddings `X` `[n, d]`, a column of ones included, and labels `Y`
    `[n, ways]`, the classifier is

        W = (X' X + strength I)^-1 X' Y = X' (X X' + strength I)^-1 Y

    by the form whose matrix is smaller, and logits are `scale X W + offset`.
    `strength`, `scale` and `offset` are learned with the encoder, through
    the solution. `support_sample_weight` weighs the squared errors.

    Unlike prototypes, a head can ignore what distinguishes no classes, so it
    gains where there are several shots. It costs a linear system for each
    task.

    Args:
        encoder: See `MetricLearner`.
        ways: See `MetricLearner`.
        strength: Initial strength of the ridge.
        scale: Initial factor of the logits.
        **kwargs: `batch_statistics`, `name`; see `MetricLearner`.

    References:
        - [Bertinetto et al., 2019](https://arxiv.org/abs/1805.08136),
          section 3.2, R2-D2.
    """

    def __init__(
        self,
        encoder: keras.Model,
        ways: int,
        *,
        strength: float = 1.0,
        scale: float = 10.0,
        **kwargs: Any,
    ):
        super().__init__(encoder, ways, **kwargs)
        check_positive_number(strength=strength, scale=scale)
        self._log_strength = self._number("log_strength", math.log(strength))
        self._log_scale = self._number("log_scale", math.log(scale))
        self.offset = self._number("offset", 0.0)

    def _number(self, name: str, value: float) -> keras.Variable:
        return self.add_weight(
            name=name, shape=(), initializer=keras.initializers.Constant(value)
        )

    @property
    def strength(self) -> float:
        """The strength of the ridge."""
        return math.exp(self._log_strength.numpy())

    @property
    def scale(self) -> float:
        """The factor of the logits."""
        return math.exp(self._log_scale.numpy())

    def adapt_embedded(
        self, x: tf.Tensor, classes: tf.Tensor, weights: tf.Tensor
    ) -> tf.Tensor:
        """Returns the classifiers, `[tasks, d + 1, ways]`."""
        roots = tf.sqrt(weights)[..., tf.newaxis]
        strength = tf.exp(tf.cast(self._log_strength, x.dtype))
        return ridge(roots * with_ones(x), roots * classes, strength)

    def compare(self, adapted: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
        """Returns logits; see `MetricLearner.compare`."""
        scale = tf.exp(tf.cast(self._log_scale, x.dtype))
        scores = tf.matmul(with_ones(x), adapted)
        return scale * scores + tf.cast(self.offset, x.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "strength": self.strength,
            "scale": self.scale,
        }


def with_ones(x: tf.Tensor) -> tf.Tensor:
    """Returns examples with a last column of ones."""
    return tf.concat([x, tf.ones_like(x[..., :1])], axis=-1)


def ridge(x: tf.Tensor, y: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Solves ridge regressions, by the smaller of two linear systems.

    Args:
        x: Examples, `[..., n, d]`.
        y: Labels, `[..., n, ways]`.
        strength: What is added to the diagonal, a positive scalar.

    Returns:
        The coefficients, `[..., d, ways]`.
    """
    examples, size = x.shape[-2:]
    if examples is not None and size is not None and size <= examples:
        return ridge_by_features(x, y, strength)
    return ridge_by_examples(x, y, strength)


def ridge_by_features(
    x: tf.Tensor, y: tf.Tensor, strength: tf.Tensor
) -> tf.Tensor:
    """Solves the primal system, `[d, d]`; see `ridge`."""
    products = full_product(x, x, transpose_a=True)
    target = full_product(x, y, transpose_a=True)
    return _solve(products, target, strength)


def ridge_by_examples(
    x: tf.Tensor, y: tf.Tensor, strength: tf.Tensor
) -> tf.Tensor:
    """Solves the dual system, `[n, n]`; see `ridge`."""
    products = full_product(x, x, transpose_b=True)
    weights = _solve(products, y, strength)
    return full_product(x, weights, transpose_a=True)


def _solve(matrix: tf.Tensor, y: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
    """Solves `(matrix + strength I) w = y`, at least in float32."""
    dtype = matrix.dtype if matrix.dtype == tf.float64 else tf.float32
    diagonal = tf.linalg.diag_part(matrix) + strength
    matrix = tf.cast(tf.linalg.set_diag(matrix, diagonal), dtype)
    root = tf.linalg.cholesky(matrix)
    return tf.cast(tf.linalg.cholesky_solve(root, tf.cast(y, dtype)), y.dtype)
