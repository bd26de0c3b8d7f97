"""The base of learners that compare embedded examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from typing import Self

import keras
import tensorflow as tf

from keras_meta.batching.task_batched import TaskBatched
from keras_meta.checks import check_at_least
from keras_meta.checks import check_choice
from keras_meta.execution import task_blocks
from keras_meta.execution.undoing import Change
from keras_meta.inner.class_numbers import ClassNumbers
from keras_meta.inner.class_numbers import LabelRule
from keras_meta.learners.arguments import check_is_built
from keras_meta.learners.episode import Episode
from keras_meta.learners.meta_learner import MetaLearner
from keras_meta.learners.query_labels import label_rules
from keras_meta.learners.signature import signature_of_classes
from keras_meta.learners.tensors import as_nested_tensors
from keras_meta.learners.texts import takes_texts

# The logit of a class without a support example.
ABSENT = -1e9
_BATCH_STATISTICS = ("batch", "running")


class MetricLearner(MetaLearner):
    """Base class of few-shot classifiers that compare embedded examples.

    An encoder embeds support and query sets. What tells the classes apart
    is computed from the support set's embeddings in closed form, so nothing
    adapts by gradient steps. The encoder is learned through the loss of the
    queries. Predictions are logits, `[tasks, q, ways]`.

    Labels of support sets are class numbers, `[tasks, n]`, or shares of the
    classes, `[tasks, n, ways]`, such as one-hot labels. A class without a
    support example gets the logit `-1e9`.

    A subclass implements `adapt_embedded` and `compare`.

    Args:
        encoder: A built Keras model with one output, which is flattened to
            the embedding `[d]` of an example.
        ways: Number of classes in a task. Nothing that is learned depends on
            it, see `with_ways`.
        batch_statistics: What batch normalization normalizes with:
            `"running"`, as in Keras: the statistics of the set that is
            passed through in training, moving averages otherwise;
            `"batch"`, always the statistics of the set, so that a query's
            prediction depends on the other queries of its task.
        **kwargs: `name`; see `keras.Model`.

    Raises:
        ValueError: If `ways` is below 2 or the encoder is not built.

    Example:
    Cosines to the means of the classes.

    >>> import keras
    >>> import keras_meta
    >>> import tensorflow as tf
    >>>
    >>> @keras.saving.register_keras_serializable("example")
    ... class Cosines(keras_meta.MetricLearner):
    ...     def adapt_embedded(self, x, classes, weights):
    ...         shares = classes * weights[..., tf.newaxis]
    ...         return tf.matmul(shares, x, transpose_a=True)
    ...
    ...     def compare(self, adapted, x):
    ...         x = tf.math.l2_normalize(x, axis=-1)
    ...         means = tf.math.l2_normalize(adapted, axis=-1)
    ...         return 10.0 * tf.matmul(x, means, transpose_b=True)
    >>>
    >>> encoder = keras.Sequential([keras.Input([2]), keras.layers.Dense(4)])
    >>> learner = Cosines(encoder, ways=3)
    >>> x = {
    ...     "support_x": tf.random.normal([8, 6, 2]),
    ...     "support_y": tf.tile(tf.constant([[0, 1, 2] * 2]), [8, 1]),
    ...     "query_x": tf.random.normal([8, 5, 2]),
    ... }
    >>> learner.predict(x, verbose=0).shape
    (8, 5, 3)
    """

    def __init__(
        self,
        encoder: keras.Model,
        ways: int,
        *,
        batch_statistics: str = "running",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        check_is_built("encoder", encoder)
        check_at_least(2, ways=ways)
        check_choice("batch_statistics", batch_statistics, _BATCH_STATISTICS)
        self.encoder = encoder
        self.ways = int(ways)
        self.batch_statistics = batch_statistics
        # Adapted weights would differ between tasks. There are none.
        self._task_batched = TaskBatched(encoder, [])
        # XLA has no strings.
        self.supports_jit = not takes_texts(encoder)
        self.built = True

    def with_ways(self, ways: int) -> Self:
        """Returns a learner for tasks with another number of classes.

        Training with more classes than in tests helps. The encoder is shared;
        other weights are copied. The learner is not compiled.

        Args:
            ways: Number of classes in a task.
        """
        return self._copy(ways=ways)

    def with_encoder(self, encoder: keras.Model) -> Self:
        """Returns a learner with another encoder.

        Weights other than the encoder's are copied. The learner is not
        compiled. Where many tasks are drawn from few examples, embed these
        once and give their embeddings to a learner with an encoder that
        returns its inputs.

        Args:
            encoder: A built model whose outputs have as many entries as those
                of the present one.

        Example:
        ```python
        embeddings = learner.encoder.predict(images)
        as_they_are = keras.Sequential(
            [keras.Input(embeddings.shape[1:]), keras.layers.Identity()]
        )
        head = learner.with_encoder(as_they_are)
        ```
        """
        return self._copy(encoder=encoder)

    def _copy(self, **changes: Any) -> Self:
        """Returns a learner with other arguments of the constructor."""
        config = {**self.get_config(), "encoder": self.encoder, **changes}
        other = type(self)(**config)
        for variable, value in zip(
            _others(other.weights, other.encoder.weights),
            _others(self.weights, self.encoder.weights),
            strict=True,
        ):
            variable.assign(value)
        return other

    # What subclasses implement.

    def adapt_embedded(
        self, x: tf.Tensor, classes: tf.Tensor, weights: tf.Tensor
    ) -> Any:
        """Returns what tells the classes of each task apart.

        Args:
            x: Embedded support sets, `[tasks, n, d]`.
            classes: Shares of the classes in each example,
                `[tasks, n, ways]`.
            weights: Weights of the examples, `[tasks, n]`.

        Returns:
            What `compare` takes, nested tensors `[tasks, ...]`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `adapt_embedded`."
        )

    def compare(self, adapted: Any, x: tf.Tensor) -> tf.Tensor:
        """Returns logits, `[tasks, q, ways]`.

        Args:
            adapted: What `adapt_embedded` returned.
            x: Embedded query sets, `[tasks, q, d]`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `compare`."
        )

    @property
    def size_of_embedding(self) -> int | None:
        """Number of entries of an embedding, `None` if unknown."""
        shape = getattr(self.encoder, "output_shape", None)
        if not isinstance(shape, tuple):
            return None
        return tf.TensorShape(shape[1:]).num_elements()

    # What `MetaLearner` is made of.

    def adapt_tasks(
        self, inputs: dict[str, Any], training: bool = False
    ) -> tuple[Any, tf.Tensor]:
        """Embeds the support sets; see `MetaLearner.adapt_tasks`.

        Returns:
            What `adapt_embedded` returned, and whether each class has a
            support example, `[tasks, ways]`.
        """
        episode = Episode.from_inputs(inputs, self.encoder)
        self._health.count_tasks(episode.tasks)
        x = self.embed(episode.support_x, training)
        classes = self._classes(episode, x.dtype)
        weights = episode.support_sample_weight
        if weights is None:
            weights = tf.ones(tf.shape(classes)[:2], x.dtype)
        weights = tf.cast(weights, x.dtype)
        is_there = tf.reduce_any(weighted(classes, weights) > 0, axis=1)
        return self.adapt_embedded(x, classes, weights), is_there

    def predict_tasks(
        self,
        adapted: tuple[Any, tf.Tensor],
        inputs: dict[str, Any],
        training: bool = False,
    ) -> tf.Tensor:
        """Predicts the query sets; see `MetaLearner.predict_tasks`."""
        episode = Episode.from_inputs(inputs, self.encoder)
        compared, is_there = adapted
        logits = self.compare(compared, self.embed(episode.query_x, training))
        absent = tf.cast(ABSENT, logits.dtype)
        return tf.where(is_there[:, tf.newaxis], logits, absent)

    def embed(self, x: Any, training: bool = False) -> tf.Tensor:
        """Embeds sets of examples.

        Args:
            x: Inputs, nested as the encoder expects them, each
                `[tasks, n, ...]`.
            training: Whether this is a meta-training step.

        Returns:
            The embeddings, `[tasks, n, d]`.
        """
        x = as_nested_tensors("x", x)
        before = self._task_batched.initial_state()
        is_running = self.batch_statistics == "running"
        result = self._task_batched(
            [],
            before,
            x,
            training=training,
            statistics="running" if is_running else "batch",
            second_order=False,
        )
        for loss in result.losses:
            self.add_loss(loss)
        if training:
            self._keep(before, result.state)
        y = result.outputs
        size = y.shape[2:].num_elements()
        return tf.reshape(y, tf.concat([tf.shape(y)[:2], [size]], 0))

    def _keep(self, before: list[tf.Tensor], after: list[tf.Tensor]) -> None:
        """Keeps what a step changed, unless the step failed."""
        variables = self._task_batched.state_variables
        changes = [
            Change(variable, old, new)
            for variable, old, new in zip(variables, before, after, strict=True)
            if new is not old
        ]
        self._model_state.change(changes, self._health.is_ok)

    def _classes(self, episode: Episode, dtype: tf.DType) -> tf.Tensor:
        """Returns the shares of the classes, `[tasks, n, ways]`."""
        rule = self._support_rule(episode.as_inputs())
        if rule is None:
            return tf.cast(episode.support_y, dtype)
        self._health.report_labels(episode.support_y, rule)
        labels = episode.with_valid_labels(rule).support_y
        if labels.shape.rank == 3:
            labels = tf.squeeze(labels, -1)
        return tf.one_hot(labels, self.ways, dtype=dtype)

    # What the bases ask for.

    def _resolve_auto_jit_compile(self) -> bool:
        """Leaves XLA out where TensorFlow has kernels for all convolutions.

        On a CPU they are faster, because all tasks share the weights.
        """
        if task_blocks.has_plain_kernels(self.encoder):
            return False
        return super()._resolve_auto_jit_compile()

    @property
    def _reader(self) -> keras.Model:
        return self.encoder

    def _support_rule(self, inputs: dict[str, Any]) -> LabelRule | None:
        shape = inputs["support_y"].shape
        if shape.rank == 3 and shape[-1] == self.ways:
            return None
        if shape.rank == 2 or (shape.rank == 3 and shape[-1] == 1):
            return LabelRule("support_y", ClassNumbers(self.ways))
        raise ValueError(
            "`support_y` must be class numbers, [tasks, n], or shares of the "
            f"{self.ways} classes, [tasks, n, {self.ways}]. Received: "
            f"support_y.shape={shape}. `ways` is the number of classes in a "
            "task."
        )

    def _query_rules(self, x: Any, y: Any) -> list[LabelRule | None]:
        output = keras.KerasTensor([None, self.ways], self.compute_dtype)
        return label_rules(self.loss, y, lambda: output)

    def _default_signature(self) -> dict[str, Any]:
        return signature_of_classes(self.encoder)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "ways": self.ways,
            "batch_statistics": self.batch_statistics,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a learner from `get_config`'s dict."""
        encoder = keras.saving.deserialize_keras_object(config["encoder"])
        return cls(**{**config, "encoder": encoder})


def weighted(classes: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
    """Returns shares of classes times the weights of the examples.

    Args:
        classes: `[tasks, n, ways]`.
        weights: `[tasks, n]`.
    """
    return classes * weights[..., tf.newaxis]


def _others(
    weights: Sequence[keras.Variable], known: Sequence[keras.Variable]
) -> list[keras.Variable]:
    """Returns weights without those that are known."""
    ids = set(map(id, known))
    return [v for v in weights if id(v) not in ids]
