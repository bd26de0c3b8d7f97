"""Training a Keras model from new initial weights each time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta._keras import model_supports_jit
from keras_meta.batching.fallback import is_seed
from keras_meta.batching.output_specs import OutputSpecs
from keras_meta.batching.task_batched import TaskBatched
from keras_meta.checks import check_finite_values
from keras_meta.checks import check_positive
from keras_meta.checks import describe
from keras_meta.episodes.arguments import as_array
from keras_meta.episodes.random_bits import integers_below
from keras_meta.inner import initial_weights
from keras_meta.inner.class_numbers import ClassNumbers
from keras_meta.inner.inner_loss import InnerLoss
from keras_meta.inner.penalties import penalties
from keras_meta.problems import assets
from keras_meta.problems.problem import Problem
from keras_meta.problems.words import instance_words

_WEIGHT_STREAM = 103
# The streams from here on belong to optimization steps, one each.
_EXAMPLE_STREAM = 1000
_STATE_STREAM = 2**31
_READ_AT_ONCE = 4096


@keras.saving.register_keras_serializable("keras_meta")
class ModelProblem(Problem):
    """Training a Keras model on minibatches of a data set.

    Each instance has its own initial weights and order of examples. One
    task-batched call of the model computes all instances.

    A file of the learner holds the model and the data too. It is as large as
    they are, each time that it is written.

    Args:
        model: A built Keras model. Its weights do not change.
        data: A pair of arrays `(x, y)`, `[examples, ...]` each, or a
            `tf.data.Dataset` of single examples `(x, y)`, for instance from
            TFDS with `as_supervised=True`. A data set is read once. Data stay
            in memory unchanged, so the model should scale them: add
            `keras.layers.Rescaling(1 / 255)` for uint8 images.
        loss: A Keras loss, its name, or a function; see `inner_loss` of
            `MAML`. Regularizers of the model's weights are added.
        batch_size: Number of examples in a minibatch, drawn with replacement.
        initializer: A Keras initializer for all weights, or `None` for each
            layer's own. With `None`, weights of layers that have no
            initializer start at their current value.

    Raises:
        TypeError: If `model` is not a `keras.Model`.
        ValueError: If the model is not built or has nothing to train, if
            data are missing or not finite, or if model, data and loss do not
            fit together.
        NotImplementedError: If layers of the model add losses.

    Example:
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> data = tf.zeros([50, 2]), tf.zeros([50, 1])
    >>> problem = ModelProblem(model, data, "mse", batch_size=10)
    >>> params, data = problem.draw(seed=0, index=0, instances=3)
    >>> [p.shape for p in params]
    [TensorShape([3, 2, 1]), TensorShape([3, 1])]
    """

    def __init__(
        self,
        model: keras.Model,
        data: Any,
        loss: str | keras.losses.Loss | Callable,
        *,
        batch_size: int = 128,
        initializer: str | keras.initializers.Initializer | None = None,
    ):
        self._set_up(model, loss, batch_size, initializer)
        x, y = _load(data)
        self._structure = keras.tree.pack_sequence_as(
            x, list(range(len(keras.tree.flatten(x))))
        )
        self._x, self._y = x, y
        self._check_labels()
        self._check_losses()

    def _set_up(
        self, model: Any, loss: Any, batch_size: int, initializer: Any
    ) -> None:
        """Sets everything but the data."""
        if not isinstance(model, keras.Model):
            raise TypeError(
                "`model` must be a keras.Model. Received: "
                f"model={describe(model)}"
            )
        if loss is None:
            raise ValueError("`loss` must be a Keras loss. Received: None")
        if not model.built or not model.trainable_variables:
            raise ValueError(
                "`model` must be built and have trainable weights. Received: "
                f"model={model.name!r}, built={model.built}, with "
                f"{len(model.trainable_variables)} trainable weights. Give it "
                "a keras.Input or call it on data once, and unfreeze it."
            )
        check_positive(batch_size=batch_size)
        self.model = model
        self.batch_size = batch_size
        with _naming("loss", loss):
            self.loss = InnerLoss(loss, labels="y")
        if initializer is not None:
            with _naming("initializer", initializer):
                initializer = keras.initializers.get(initializer)
        self._task_batched = TaskBatched(model, model.trainable_variables)
        self._initializers = initial_weights.initializers_of(
            model, model.trainable_variables, initializer
        )
        self._arguments = {"loss": loss, "initializer": initializer}
        # Nested like the inputs: the number of each in a file of the data.
        self._structure = None
        self._x = None
        self._y = None

    def _check_labels(self) -> None:
        ways = OutputSpecs(self.model).ways(self._x, axes=1)
        classes = ClassNumbers.of(self.loss, ways)
        if classes is None:
            return
        others = self._y[tf.logical_not(classes.contain(self._y))]
        if len(others):
            raise ValueError(
                "`data` must have labels that are class numbers. "
                f"{classes.requirement} Received: {len(others)} other labels, "
                f"such as {others[0].numpy()}. {classes.way_out}"
            )

    def _check_losses(self) -> None:
        has_gradient = []

        def trace():
            params, data = self.draw(0, 0, instances=1)
            with tf.GradientTape() as tape:
                tape.watch(params)
                losses = self.losses(params, data, step=0)
            has_gradient.extend(
                g is not None for g in tape.gradient(losses, params)
            )

        try:
            tf.function(trace, autograph=False).get_concrete_function()
        except (TypeError, ValueError) as error:
            x = keras.tree.map_structure(lambda x: x.shape, self._x)
            raise ValueError(
                "`model`, `data` and `loss` do not fit together. Received: "
                f"x of shape {x}, y of shape {self._y.shape}. {error}"
            ) from error
        if not any(has_gradient):
            raise ValueError(
                "`loss` must have a gradient with respect to the model's "
                f"weights. Received: {self.loss.loss!r}, which has none. "
                "Pass a differentiable loss, not a metric such as accuracy."
            )

    @property
    def variables(self) -> list[keras.Variable]:
        """The model's trainable variables."""
        return self._task_batched.adapted

    @property
    def supports_jit(self) -> bool:
        """Whether XLA can compile the model with all layers task-batched."""
        return (
            model_supports_jit(self.model)
            and not self._task_batched.has_fallback
        )

    def draw(
        self, seed: int | tf.Tensor, index: int | tf.Tensor, instances: int
    ) -> tuple[list[tf.Tensor], Any]:
        """Draws weights; see `Problem.draw`."""
        words = instance_words(
            seed,
            _WEIGHT_STREAM,
            index,
            rows=instances,
            words=initial_weights.WORDS * len(self.variables),
        )
        drawn = [
            initial_weights.draw(self.variables, self._initializers, row)
            for row in tf.unstack(words, instances)
        ]
        params = [tf.stack(values) for values in zip(*drawn, strict=True)]
        return params, {
            "seed": tf.cast(seed, tf.int64),
            "index": tf.cast(index, tf.int64),
            "row": tf.range(instances),
        }

    def losses(
        self,
        params: Sequence[tf.Tensor],
        data: Any,
        step: int | tf.Tensor,
        *,
        second_order: bool = False,
        xla: bool | None = None,
    ) -> tf.Tensor:
        """Returns each instance's loss on a minibatch; see `Problem.losses`."""
        x, y = self._examples(data, step, params[0].shape[0])
        batched = self._task_batched
        result = batched(
            params,
            self._state(data, step),
            x,
            training=True,
            second_order=second_order,
            xla=bool(xla),
        )
        if result.losses:
            raise NotImplementedError(
                "Losses that layers add during a call, by an activity "
                "regularizer or `add_loss`, are sums over all instances. "
                f"Received: model={self.model.name!r}, which adds some. "
                "Remove them. Regularizers of weights are supported."
            )
        losses = self.loss(y, result.outputs)
        return losses + penalties(self.variables, params, losses.dtype)

    def _state(self, data: Any, step: int | tf.Tensor) -> list[tf.Tensor]:
        """Returns the non-trainable state, with new seeds at each step."""
        words = instance_words(
            data["seed"],
            _STATE_STREAM + tf.cast(step, tf.int64),
            data["index"],
            rows=1,
            words=2,
        )
        seed = tf.cast(words[0], tf.int64) % 2**31
        return [
            value + tf.cast(seed, value.dtype) if is_seed(variable) else value
            for variable, value in zip(
                self._task_batched.state_variables,
                self._task_batched.initial_state(),
                strict=True,
            )
        ]

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor, except for the data."""
        serialize = keras.saving.serialize_keras_object
        return {
            "model": serialize(self.model),
            "batch_size": self.batch_size,
            **{name: serialize(x) for name, x in self._arguments.items()},
            "structure": serialize(self._structure),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ModelProblem:
        """Makes a problem that has its data from `load_assets`."""
        deserialize = keras.saving.deserialize_keras_object
        problem = cls.__new__(cls)
        problem._set_up(
            deserialize(config["model"]),
            deserialize(config["loss"]),
            config["batch_size"],
            deserialize(config["initializer"]),
        )
        problem._structure = deserialize(config["structure"])
        return problem

    def save_assets(self, folder: str) -> None:
        """Writes the data and the model's weights."""
        assets.save_model(folder, self.model)
        assets.save_tensors(folder, [*keras.tree.flatten(self._x), self._y])

    def load_assets(self, folder: str) -> None:
        """Reads the data and the model's weights."""
        assets.load_model(folder, self.model)
        *x, self._y = assets.load_tensors(folder)
        self._x = keras.tree.pack_sequence_as(self._structure, x)

    def _examples(
        self, data: Any, step: int | tf.Tensor, instances: int
    ) -> tuple[Any, tf.Tensor]:
        if self._y is None:
            raise RuntimeError(
                "A ModelProblem that is made from a config has no data. Its "
                "learner's file holds them, which keras.models.load_model "
                "reads; or make the problem by its constructor."
            )
        words = instance_words(
            data["seed"],
            _EXAMPLE_STREAM + tf.cast(step, tf.int64),
            data["index"],
            rows=instances,
            words=self.batch_size,
        )
        # Instances may be repeated.
        words = tf.gather(words, data["row"])
        chosen = integers_below(words, self._y.shape[0])
        x = keras.tree.map_structure(lambda x: tf.gather(x, chosen), self._x)
        return x, tf.gather(self._y, chosen)


def _read(data: tf.data.Dataset) -> Any:
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError(
            "`data` must be finite, because it is read once. Received: an "
            "infinite data set. Remove `.repeat()`."
        )
    specs = keras.tree.flatten(data.element_spec)
    if not all(
        isinstance(spec, tf.TensorSpec) and spec.shape.is_fully_defined()
        for spec in specs
    ):
        raise ValueError(
            "`data` must yield single examples, dense tensors of a fixed "
            f"shape. Received: {data.element_spec}. Remove `.batch(...)`, and "
            "resize images of different sizes."
        )
    parts = [*data.batch(_READ_AT_ONCE)]
    if not parts:
        raise ValueError(
            "`data` must hold examples. Received: an empty data set. Check "
            "its filters."
        )
    return keras.tree.map_structure(lambda *x: tf.concat(x, 0), *parts)


def _describe(data: Any) -> str:
    kind = type(data).__name__
    return f"{kind} of {len(data)}" if isinstance(data, (tuple, list)) else kind


def _load(data: Any) -> tuple[Any, tf.Tensor]:
    """Returns all examples as tensors."""
    if isinstance(data, tf.data.Dataset):
        data = _read(data)
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise ValueError(
            "`data` must be a pair (x, y) of arrays or a data set of such "
            f"pairs. Received: {_describe(data)}"
        )
    if not keras.tree.flatten(data[0]) or any(leaf is None for leaf in data):
        raise ValueError(
            "`data` must hold inputs and labels. Received: None. Pass `(x, y)`."
        )
    with tf.init_scope():
        x = keras.tree.map_structure(_as_tensor, data[0])
        y = _as_tensor(data[1])
    leaves = [*keras.tree.flatten(x), y]
    sizes = {leaf.shape[0] if leaf.shape.rank else 0 for leaf in leaves}
    if len(sizes) != 1 or sizes == {0}:
        raise ValueError(
            "`data` must hold as many labels as inputs, and at least one. "
            f"Received: sizes {sorted(sizes)}. Convert lists of numbers to "
            "arrays first."
        )
    return x, y


def _as_tensor(values: Any) -> tf.Tensor:
    array = as_array("data", values)
    check_finite_values(data=array)
    try:
        # A list becomes float32; an array keeps its type.
        return tf.convert_to_tensor(values)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "`data` must hold numbers or strings. Received: "
            f"{describe(values)}, an array of type {array.dtype}"
        ) from error


@contextlib.contextmanager
def _naming(argument: str, value: Any) -> Iterator[None]:
    """Names the argument in errors of Keras, which does not know it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{argument}` must be accepted by Keras. Received: {argument}="
            f"{describe(value)}. {error}"
        ) from error
