"""The base of all meta-learners."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any
from typing import Self

import keras
import tensorflow as tf

from keras_meta._keras import raises_as_is
from keras_meta.checks import describe
from keras_meta.learners.meta_training import MetaTraining
from keras_meta.learners.presets import load_learner
from keras_meta.learners.presets import preset_names
from keras_meta.learners.presets import save_learner
from keras_meta.learners.tasks.episode import Episode
from keras_meta.learners.tasks.episode import check_is_dict
from keras_meta.learners.tasks.tensors import as_tensors


class MetaLearner(MetaTraining):
    """Base class of meta-learners: Keras models whose call adapts.

    Its `call` takes a dict of `support_x` `[tasks, n, ...]`, `support_y`
    `[tasks, n, ...]` and `query_x` `[tasks, q, ...]` (and optionally
    `support_sample_weight` `[tasks, n]`). It returns predictions for
    `query_x`, `[tasks, q, ...]`, made with what each task's support set
    teaches.
    `fit`, `evaluate` and `predict` take data sets of `(x, query_y)` with such
    `x`; `keras_meta.evaluate_tasks` measures it, and `export` serves it.
    Compiled losses and metrics see the queries of all tasks as one batch,
    `[tasks * q, ...]`; override `compute_loss` for a loss that sees tasks.

    A subclass implements `adapt_tasks` and `predict_tasks`, with operations
    that TensorFlow can differentiate, and `get_config` if it is to be saved.
    Learners that adapt by gradient steps extend `keras_meta.Learner`.

    Args:
        **kwargs: `name`; see `keras.Model`.

    Example:
    Classes are the means of their embedded support examples, and a query
    belongs to the nearest one ([Snell et al.,
    2017](https://arxiv.org/abs/1703.05175)).

    >>> import keras
    >>> import keras_meta
    >>> import tensorflow as tf
    >>>
    >>> @keras.saving.register_keras_serializable("example")
    ... class Prototypes(keras_meta.MetaLearner):
    ...     def __init__(self, encoder, ways, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.encoder = encoder
    ...         self.ways = ways
    ...         self.built = True
    ...
    ...     def embed(self, x, training):
    ...         flat = tf.reshape(x, [-1, *x.shape[2:]])
    ...         y = self.encoder(flat, training=training)
    ...         return tf.reshape(y, [tf.shape(x)[0], -1, y.shape[-1]])
    ...
    ...     def adapt_tasks(self, inputs, training=False):
    ...         classes = tf.one_hot(inputs["support_y"], self.ways)
    ...         x = self.embed(inputs["support_x"], training)
    ...         sums = tf.matmul(classes, x, transpose_a=True)
    ...         return sums / tf.reduce_sum(classes, 1)[..., tf.newaxis]
    ...
    ...     def predict_tasks(self, adapted, inputs, training=False):
    ...         x = self.embed(inputs["query_x"], training)
    ...         gaps = x[:, :, tf.newaxis] - adapted[:, tf.newaxis]
    ...         return -tf.reduce_sum(tf.square(gaps), axis=-1)
    ...
    ...     def get_config(self):
    ...         encoder = keras.saving.serialize_keras_object(self.encoder)
    ...         return {"encoder": encoder, "ways": self.ways}
    >>>
    >>> encoder = keras.Sequential([keras.Input([2]), keras.layers.Dense(4)])
    >>> learner = Prototypes(encoder, ways=3)
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> learner.compile("adam", loss, metrics=["accuracy"])
    >>> x = {
    ...     "support_x": tf.random.normal([8, 6, 2]),
    ...     "support_y": tf.tile(tf.constant([[0, 1, 2] * 2]), [8, 1]),
    ...     "query_x": tf.random.normal([8, 3, 2]),
    ... }
    >>> y = tf.tile(tf.constant([[0, 1, 2]]), [8, 1])
    >>> history = learner.fit(x, y, batch_size=4, verbose=0)
    >>> learner.predict(x, verbose=0).shape
    (8, 3, 3)
    """

    def __init__(self, **kwargs: Any):
        # Labels and regression targets must not be cast to the model's type.
        kwargs.setdefault("dtype", keras.config.floatx())
        super().__init__(autocast=False, **kwargs)

    def adapt_tasks(
        self, inputs: dict[str, Any], training: bool = False
    ) -> Any:
        """Returns what support sets teach: weights, prototypes, a memory.

        Args:
            inputs: The inputs of `call`.
            training: Whether this is a meta-training step.

        Returns:
            What `predict_tasks` takes, nested tensors `[tasks, ...]`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `adapt_tasks`."
        )

    def predict_tasks(
        self, adapted: Any, inputs: dict[str, Any], training: bool = False
    ) -> Any:
        """Predicts the query sets of adapted tasks.

        Args:
            adapted: What `adapt_tasks` returned.
            inputs: The inputs of `call`.
            training: Whether this is a meta-training step.

        Returns:
            Predictions, `[tasks, q, ...]`.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must implement `predict_tasks`."
        )

    def __call__(
        self, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Calls the learner as a Keras model, see `call`."""
        # Errors that are raised here name the input. Keras's would not.
        check_is_dict(inputs)
        if not _is_symbolic(inputs):
            inputs = as_tensors(inputs)
        return super().__call__(inputs, *args, **kwargs)

    @raises_as_is
    def call(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Returns predictions for the query sets.

        Args:
            inputs: See the class.
            training: Whether this is a meta-training step.
        """
        training = bool(training)
        function = functools.partial(self._adapt_and_predict, training=training)
        return self._carried_out(function, inputs, training)

    def _adapt_and_predict(self, inputs: dict[str, Any], training: bool) -> Any:
        inputs = Episode.from_inputs(inputs, self._reader).as_inputs()
        adapted = self.adapt_tasks(inputs, training=training)
        predictions = self.predict_tasks(adapted, inputs, training=training)
        self._health.report_predictions(predictions)
        return predictions

    def _carried_out(
        self,
        function: Callable[[dict[str, Any]], Any],
        inputs: dict[str, Any],
        training: bool,
    ) -> Any:
        """Calls a function that predicts, as the plan says.

        Args:
            function: A function of `inputs`.
            inputs: The inputs of `call`.
            training: Whether this is a meta-training step.
        """
        if self._plan.value.exporting:
            return self._asserting(function, inputs)
        if self._plan.value.one_by_one:
            function = functools.partial(self._each_task, function)
        check = functools.partial(
            self._health.check, undone=training, inputs=inputs
        )
        return self._reported(function, inputs, check)

    def _asserting(self, function: Callable, inputs: dict[str, Any]) -> Any:
        """Calls a function in a graph that raises what it reports."""
        with self._health.collecting() as report:
            predictions = function(inputs)
        checks = report.assertions(self._support_rule(inputs))
        with tf.control_dependencies(checks):
            return keras.tree.map_structure(tf.identity, predictions)

    # Presets.

    @classmethod
    def preset_names(cls) -> list[str]:
        """Returns the names of the learners that ship with the package.

        They are those of this class; `MetaLearner.preset_names()` has all.
        Each has a card that says what it was trained on, and how well it
        adapts.

        Example:
        >>> import keras_meta
        >>> keras_meta.MAML.preset_names()
        ['omniglot_5way']
        """
        return preset_names(cls)

    @classmethod
    def from_preset(cls, preset: str | os.PathLike) -> Self:
        """Reads a trained learner.

        It is compiled as it was when it was saved, so that it adapts and can
        be trained further; the optimizer starts anew. Files are compared with
        their checksums. As with `keras.models.load_model`, use presets of
        others only if you trust them.

        Args:
            preset: One of `preset_names()`, or a folder that `save_to_preset`
                wrote. If the folder has the name of a preset, pass it as a
                path, such as `"./omniglot_5way"`.

        Raises:
            DamagedFile: If a file has changed since it was written. This is
                a `ValueError`.
            FileNotFoundError: If the weights are missing.
            ValueError: If there is no such preset, if it holds a learner of
                another class, or if its weights are not finite or do not fit.
            TypeError: If `preset` is neither a name nor a path.

        Example:
        ```python
        learner = keras_meta.MAML.from_preset("omniglot_5way")
        adapted = learner.adapt(support_x, [0, 1, 2, 3, 4])
        ```
        """
        return load_learner(preset, cls)

    def save_to_preset(self, folder: str | os.PathLike) -> None:
        """Writes the learner and its weights to a folder.

        The optimizer's state is left out; `save` writes it, too. A preset
        that is already in the folder stays readable until the new one is
        complete.

        Args:
            folder: Folder to write to. It is created if it does not exist.

        Raises:
            ValueError: If weights are not finite, if the learner's class is
                not registered with Keras, or if `folder` is the name of a
                preset that ships with the package.
        """
        save_learner(self, folder)

    # Serving.

    def export(
        self,
        filepath: str,
        format: str = "tf_saved_model",
        verbose: bool | None = None,
        input_signature: dict[str, Any] | None = None,
    ) -> None:
        """Writes a SavedModel that adapts where it is served.

        Its `serve` endpoint and its signatures take support and query sets
        of any number of tasks, shots and queries and return predictions for
        the query sets, after the inner steps of evaluation.

        Args:
            filepath: The folder to write.
            format: `"tf_saved_model"`; other formats hold no gradients.
            verbose: Whether to print the endpoint.
            input_signature: A dict of `tf.TensorSpec` as `call` takes it; by
                default made from the model's input and output shapes.

        Example:
        ```python
        learner.export("served")
        served = tf.saved_model.load("served")
        served.serve({"support_x": ..., "support_y": ..., "query_x": ...})
        ```
        """
        if not isinstance(format, str) or format != "tf_saved_model":
            raise ValueError(
                "A meta-learner takes gradients where it is served, which "
                "only a SavedModel can hold. Received: "
                f"format={describe(format)}; use format='tf_saved_model'."
            )
        if input_signature is None:
            input_signature = self._default_signature()

        def serve(inputs):
            with self._plan.changing(exporting=True):
                return self(inputs, training=False)

        archive = keras.export.ExportArchive()
        archive.track(self)
        archive.add_endpoint("serve", serve, input_signature=[input_signature])
        archive.write_out(filepath, verbose=verbose)

    def _default_signature(self) -> dict[str, Any]:
        """Returns what `export` takes by default for `input_signature`."""
        raise ValueError(
            f"The inputs of {type(self).__name__} are not known, so `export` "
            "needs `input_signature`: a dict of tf.TensorSpec with the keys "
            "'support_x' and 'query_x' ([None, None, ...]) and 'support_y' "
            "([None, None] or [None, None, ...])."
        )


def _is_symbolic(inputs: dict[str, Any]) -> bool:
    leaves = keras.tree.flatten(inputs)
    return any(isinstance(x, keras.KerasTensor) for x in leaves)
