"""Classification by attention to the support set."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from keras_meta.checks import check_at_least
from keras_meta.checks import check_positive_number
from keras_meta.learners.embedded.embeddings import unit
from keras_meta.learners.embedded.full_context import FullContext
from keras_meta.learners.metric_learner import MetricLearner
from keras_meta.learners.metric_learner import weighted


@keras.saving.register_keras_serializable("keras_meta")
class MatchingNetwork(MetricLearner):
    """Classifies a query by the labels of the support examples it resembles.

    A query attends to support example `i` with the softmax over `i` of
    `temperature cos(f(x), g(x_i))`. The probability of a class is the sum of
    the attention to its examples, times `support_sample_weight` if that is
    given; logits are the logarithms of the probabilities up to a constant.

    The temperature is learned with the encoder. Without one, a softmax of
    cosines gives a class among `ways`, with one shot, at most the probability
    `e^2 / (e^2 + ways - 1)`: .65 among 5, .28 among 20.

    With full context, each support example is embedded in the light of the
    others, in the order in which they are given, and each query in the light
    of the support set; see `FullContext`.

    Args:
        encoder: See `MetricLearner`.
        ways: See `MetricLearner`.
        temperature: Initial factor of the cosines.
        context_steps: Steps in which a query reads the support set, or 0 to
            embed every example on its own.
        **kwargs: `batch_statistics`, `name`; see `MetricLearner`.

    References:
        - [Vinyals et al., 2016](https://arxiv.org/abs/1606.04080), sections
          2.1 and 2.2.
    """

    def __init__(
        self,
        encoder: keras.Model,
        ways: int,
        *,
        temperature: float = 10.0,
        context_steps: int = 0,
        **kwargs: Any,
    ):
        super().__init__(encoder, ways, **kwargs)
        check_positive_number(temperature=temperature)
        check_at_least(0, context_steps=context_steps)
        self.context_steps = int(context_steps)
        self._log_temperature = self.add_weight(
            name="log_temperature",
            shape=(),
            initializer=keras.initializers.Constant(math.log(temperature)),
        )
        self.context = None
        if self.context_steps:
            self.context = FullContext(self.context_steps)
            self.context.build((None, None, self.size_of_embedding))

    @property
    def temperature(self) -> float:
        """The factor of the cosines."""
        return math.exp(self._log_temperature.numpy())

    def adapt_embedded(
        self, x: tf.Tensor, classes: tf.Tensor, weights: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns embedded examples and their weighted classes."""
        if self.context is not None:
            x = self.context.of_support(x)
        return x, weighted(classes, weights)

    def compare(
        self, adapted: tuple[tf.Tensor, tf.Tensor], x: tf.Tensor
    ) -> tf.Tensor:
        """Returns logits; see `MetricLearner.compare`."""
        support, classes = adapted
        if self.context is not None:
            x = self.context.of_queries(x, support)
        cosines = tf.matmul(unit(x), unit(support), transpose_b=True)
        attention = tf.exp(tf.cast(self._log_temperature, x.dtype)) * cosines
        # [tasks, q, n, ways]; a weight of 0 leaves an example out.
        counts = classes[:, tf.newaxis] > 0
        logarithms = tf.math.log(tf.where(classes > 0, classes, 1.0))
        terms = attention[..., tf.newaxis] + logarithms[:, tf.newaxis]
        terms = tf.where(counts, terms, tf.cast(-1e9, terms.dtype))
        return tf.reduce_logsumexp(terms, axis=2)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "temperature": self.temperature,
            "context_steps": self.context_steps,
        }
