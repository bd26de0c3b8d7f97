"""The base of learners that work on embedded examples."""

from __future__ import annotations

import functools
from typing import Any
from typing import NamedTuple
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
from keras_meta.learners.adaptation.cloning import clone_model
from keras_meta.learners.arguments import check_is_built
from keras_meta.learners.embedded.task_classifier import TaskClassifier
from keras_meta.learners.meta_learner import MetaLearner
from keras_meta.learners.tasks.episode import Episode
from keras_meta.learners.tasks.query_labels import label_rules
from keras_meta.learners.tasks.signature import signature_of_classes
from keras_meta.learners.tasks.single_task import inputs_of_one_task
from keras_meta.learners.tasks.tensors import as_nested_tensors
from keras_meta.learners.tasks.texts import takes_texts

_BATCH_STATISTICS = ("batch", "running")


class EmbeddedSupport(NamedTuple):
    """Support sets as subclasses of `EmbeddingLearner` see them.

    Attributes:
        x: Embedded examples, `[tasks, n, d]`.
        classes: Shares of the classes in each example, `[tasks, n, ways]`.
        weights: Weights of the examples, `[tasks, n]`.
    """

    x: tf.Tensor
    classes: tf.Tensor
    weights: tf.Tensor


class EmbeddingLearner(MetaLearner):
    """Base class of few-shot classifiers that see embedded examples.

    Adapting takes no gradient steps, so an encoder embeds the support and
    query sets of all tasks with the same weights. Predictions are logits,
    `[tasks, q, ways]`.

    Labels of support sets are class numbers, `[tasks, n]`, or shares of the
    classes, `[tasks, n, ways]`, such as one-hot labels.

    A subclass implements `adapt_tasks` with `embedded_support`, and
    `answer`.

    Args:
        encoder: A built Keras model with one output, which is flattened to
            the embedding `[d]` of an example.
        ways: Number of classes in a task.
        batch_statistics: What batch normalization normalizes with:
            `"running"`, as in Keras: the statistics of the set that is
            passed through in training, moving averages otherwise;
            `"batch"`, always the statistics of the set, so that a query's
            prediction depends on the other queries of its task.
        **kwargs: `name`; see `keras.Model`.

    Raises:
        ValueError: If `ways` is below 2 or the encoder is not built.
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

    @property
    def size_of_embedding(self) -> int | None:
        """Number of entries of an embedding, `None` if unknown."""
        shape = getattr(self.encoder, "output_shape", None)
        if not isinstance(shape, tuple):
            return None
        return tf.TensorShape(shape[1:]).num_elements()

    def adapt(
        self, support_x: Any, support_y: Any, sample_weight: Any = None
    ) -> keras.Model:
        """Adapts to one task and returns a plain Keras model.

        Args:
            support_x: Inputs of the task, nested as the encoder expects them,
                each `[n, ...]`.
            support_y: Their class numbers, `[n]`, or shares of the classes,
                `[n, ways]`.
            sample_weight: Weights of the examples, `[n]`.

        Returns:
            A model that returns logits, `[n, ways]`. It is saved, loaded and
            exported as any Keras model, and shares nothing with this one.

        Raises:
            FloatingPointError: If the support set, or what is computed from
                it, is not finite.
            TypeError: If an array cannot be a tensor.
            ValueError: If arrays do not fit each other or the encoder, or
                labels are outside the classes.

        Example:
        >>> import keras
        >>> import keras_meta
        >>> import numpy as np
        >>>
        >>> layers = [keras.Input([2]), keras.layers.Identity()]
        >>> encoder = keras.Sequential(layers)
        >>> learner = keras_meta.PrototypicalNetwork(encoder, ways=2)
        >>> adapted = learner.adapt([[0.0, 1.0], [1.0, 0.0]], [0, 1])
        >>> adapted.predict(np.array([[0.2, 0.9]]), verbose=0).argmax(axis=-1)
        array([0])
        """
        inputs = inputs_of_one_task(support_x, support_y, sample_weight)
        inputs = Episode.from_inputs(inputs, self.encoder).as_inputs()
        adapted = self._reported(
            self.adapt_tasks,
            inputs,
            functools.partial(self._health.check, inputs=inputs),
        )
        _check_finite(adapted)
        classifier = TaskClassifier(clone_model(self, {}), adapted)
        # `export` needs the shapes of a call.
        classifier(keras.tree.map_structure(lambda x: x[0], inputs["query_x"]))
        return classifier

    def answer(self, adapted: Any, x: tf.Tensor) -> tf.Tensor:
        """Returns logits for embedded queries that do not see each other.

        Args:
            adapted: What `adapt_tasks` returned.
            x: Embedded query sets, `[tasks, q, d]`.

        Returns:
            The logits, `[tasks, q, ways]`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `answer`."
        )

    def predict_tasks(
        self, adapted: Any, inputs: dict[str, Any], training: bool = False
    ) -> tf.Tensor:
        """Predicts the query sets; see `MetaLearner.predict_tasks`."""
        return self.answer(adapted, self.embedded_queries(inputs, training))

    def embedded_support(
        self, inputs: dict[str, Any], training: bool = False
    ) -> EmbeddedSupport:
        """Embeds the support sets.

        Args:
            inputs: The inputs of `call`.
            training: Whether this is a meta-training step.
        """
        episode = Episode.from_inputs(inputs, self.encoder)
        self._health.count_tasks(episode.tasks)
        x = self.embed(episode.support_x, training)
        classes = self._classes(episode, x.dtype)
        weights = episode.support_sample_weight
        if weights is None:
            weights = tf.ones(tf.shape(classes)[:2], x.dtype)
        return EmbeddedSupport(x, classes, tf.cast(weights, x.dtype))

    def embedded_queries(
        self, inputs: dict[str, Any], training: bool = False
    ) -> tf.Tensor:
        """Embeds the query sets, `[tasks, q, d]`.

        Args:
            inputs: The inputs of `call`.
            training: Whether this is a meta-training step.
        """
        episode = Episode.from_inputs(inputs, self.encoder)
        return self.embed(episode.query_x, training)

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


def _check_finite(adapted: Any) -> None:
    """Refuses to go on with what was computed from values like NaN."""
    for x in keras.tree.flatten(adapted):
        if x.dtype.is_floating and not tf.reduce_all(tf.math.is_finite(x)):
            raise FloatingPointError(
                "Adapting to this support set gave values that are not "
                "finite. Look for NaN and infinity in `support_x`, "
                "`sample_weight` and the learner's weights."
            )
