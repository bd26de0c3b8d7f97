"""Where the inner loops of few-shot tasks begin."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta.batching import task_axis
from keras_meta.checks import check_int64
from keras_meta.checks import describe
from keras_meta.execution import replicas
from keras_meta.execution.undoing import Change
from keras_meta.inner import initial_weights
from keras_meta.inner.few_shot import DRAWN_WEIGHTS
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.problems.words import instance_words

# Streams of random words: this one serves `redraw`, and those that follow
# serve one meta-step each.
_REDRAWN = 0


@keras.saving.register_keras_serializable("keras_meta")
@dataclasses.dataclass(frozen=True)
class Drawn:
    """Begins the inner loop of every task at newly drawn weights.

    In a meta-step, each task has its own initial weights of what adapts.
    They come from the initializers of the model's layers, as a function of
    the seed, the number of the meta-step, and the task's place in the batch.
    So the initial weights are not learned. What is learned has to work from
    any of them: rates, rules, a learned loss, and layers that do not adapt.

    Outside of training, in `evaluate`, `predict`, `adapt` and exported
    models, every task begins at the weights that the model holds. Training
    does not change them: they are those that it was built with, or that
    `learner.redraw(seed)` has drawn since. So a prediction does not depend on
    the other tasks of a batch, nor on how many have been made before. To
    average over initial weights, call `redraw` with several seeds and
    evaluate after each.

    The number of the meta-step is a weight of the learner, so training that
    is resumed draws what it would have drawn. All tasks of a batch are taken
    at once. A batch that is split among devices has the same draws as on one.

    Args:
        seed: Seed of the draws, an integer.

    Raises:
        ValueError: If the seed is not an integer of up to 64 bits.

    Example:
    >>> import keras
    >>> import keras_meta
    >>> model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    >>> learner = keras_meta.MAML(
    ...     model,
    ...     keras_meta.GradientDescent(0.1, learn="layer"),
    ...     steps=5,
    ...     start=keras_meta.Drawn(seed=1),
    ... )
    >>> [v.name for v in learner.trainable_variables]
    ['rates']
    """

    seed: int = 0

    def __post_init__(self) -> None:
        check_int64(seed=self.seed)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Drawn:
        """Makes the settings from `get_config`'s dict."""
        return cls(**config)


@dataclasses.dataclass(frozen=True)
class LearnedStart:
    """Tasks begin at the weights of the model, which are learned.

    Attributes:
        settings: What `Learner.start` returns.
        variables: Variables that adapt and whose initial values are drawn:
            none.
        draws: Whether a meta-step draws weights.
    """

    settings: str = "learned"
    variables: Sequence[keras.Variable] = ()
    draws: bool = False

    def check(
        self,
        meta_gradient: MetaGradient,
        learned: Sequence[keras.Variable],
        adapted: Sequence[keras.Variable],
        proximal: float,
    ) -> None:
        """Refuses a meta-gradient that cannot learn where tasks begin.

        Args:
            meta_gradient: How the gradient comes back.
            learned: All that the learner learns.
            adapted: The variables that adapt.
            proximal: Strength of the proximal term.

        Raises:
            ValueError: If it cannot.
        """
        if any(v.trainable for v in adapted):
            meta_gradient.check_start(True, proximal)

    def into(self, data: dict[str, Any]) -> dict[str, Any]:
        """Returns data of a meta-step with where the tasks begin.

        Args:
            data: The inputs of `Learner.call`.
        """
        return data

    def changes(self) -> list[Change]:
        """Returns what is another at the next meta-step."""
        return []

    def redraw(self, seed: int) -> None:
        """Refuses to overwrite what is learned."""
        raise ValueError(
            "`redraw` would overwrite the learned initial weights. Received: "
            f"seed={describe(seed)}, with start='learned'. Pass "
            'start="drawn" to the learner.'
        )


@dataclasses.dataclass(frozen=True)
class DrawnStart:
    """Tasks begin at weights that are drawn; see `LearnedStart`.

    Attributes:
        settings: The seed.
        variables: What is drawn: the variables that adapt.
        initializers: What draws each of them, see `initializers_of`.
        clock: Number of the next meta-step. It is int64, as TensorFlow keeps
            int32 variables off a GPU, where XLA would not reach them.
        draws: Whether a meta-step draws weights.
    """

    settings: Drawn
    variables: Sequence[keras.Variable]
    initializers: Sequence[Any]
    clock: keras.Variable
    draws: bool = True

    @classmethod
    def make(
        cls,
        settings: Drawn,
        model: keras.Model,
        variables: Sequence[keras.Variable],
        add_weight: Callable[..., keras.Variable],
    ) -> DrawnStart:
        """Makes what draws the weights of a model.

        Args:
            settings: The seed.
            model: The model.
            variables: Those of its variables that adapt.
            add_weight: That of the learner which saves the clock.

        Raises:
            ValueError: If a variable has no initializer, or a regularizer.
        """
        initializers = known_initializers(model, variables)
        regularized = [v.path for v in variables if v.regularizer is not None]
        if regularized:
            raise ValueError(
                "Regularizers act on learned initial weights, and "
                'start="drawn" learns none. Received: a model with '
                f"regularizers of {regularized}, which adapt. Remove them, or "
                "pass `proximal=`, which keeps adapted weights near the drawn "
                "ones."
            )
        clock = add_weight(
            name="drawn_clock",
            shape=(),
            dtype="int64",
            initializer="zeros",
            trainable=False,
        )
        return cls(settings, list(variables), initializers, clock)

    def check(
        self,
        meta_gradient: MetaGradient,
        learned: Sequence[keras.Variable],
        adapted: Sequence[keras.Variable],
        proximal: float,
    ) -> None:
        """Refuses to learn nothing; see `LearnedStart.check`."""
        if not learned:
            raise ValueError(
                'start="drawn" learns no initial weights, so something else '
                "must be learned. Received: a model whose other weights are "
                "frozen, or that adapts all of them, with an update rule and "
                "an inner loss that learn nothing. Learn rates, such as "
                'update_rule=keras_meta.GradientDescent(0.1, learn="layer"), '
                "learn the loss, such as inner_loss=keras_meta.LossNetwork(), "
                'leave layers out of `adapt`, or use start="learned".'
            )
        meta_gradient.check_start(False, proximal)

    def into(self, data: dict[str, Any]) -> dict[str, Any]:
        """Returns data with drawn weights; see `LearnedStart.into`."""
        weights = self._draw(task_axis.size(data["support_y"], 0))
        return {**data, DRAWN_WEIGHTS: weights}

    def changes(self) -> list[Change]:
        """Returns what makes the next meta-step draw other weights."""
        now = tf.convert_to_tensor(self.clock.value)
        return [Change(self.clock, now, now + 1)]

    def redraw(self, seed: int) -> None:
        """Draws the weights that the model holds.

        Args:
            seed: Seed of the draw.
        """
        check_int64(seed=seed)
        values = self._values(seed, _REDRAWN, 0)
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)

    def _draw(self, tasks: int | tf.Tensor) -> list[tf.Tensor]:
        """Draws the initial weights of the tasks of a meta-step.

        Args:
            tasks: Number of tasks on this device.

        Returns:
            A tensor `[tasks, *shape]` for each variable.
        """
        # Each replica draws what its tasks would get on one device.
        first, _ = replicas.place_in_batch(tasks)
        places = tf.cast(first, tf.int64) + tf.range(
            tf.cast(tasks, tf.int64), dtype=tf.int64
        )
        stream = tf.convert_to_tensor(self.clock.value) + _REDRAWN + 1
        drawn = tf.map_fn(
            lambda place: tuple(
                self._values(self.settings.seed, stream, place)
            ),
            places,
            fn_output_signature=tuple(
                tf.TensorSpec(v.shape, v.dtype) for v in self.variables
            ),
        )
        return list(drawn)

    def _values(
        self, seed: int, stream: int | tf.Tensor, place: int | tf.Tensor
    ) -> list[tf.Tensor]:
        """Draws the initial weights of one task, `[*shape]` each."""
        words = instance_words(
            seed,
            stream,
            place,
            rows=1,
            words=initial_weights.WORDS * len(self.variables),
        )
        return initial_weights.draw(self.variables, self.initializers, words[0])


def known_initializers(
    model: keras.Model, variables: Sequence[keras.Variable]
) -> list[Any]:
    """Returns what draws the weights of a model that adapt.

    Args:
        model: The model.
        variables: Those of its variables that adapt.

    Raises:
        ValueError: If a variable has no initializer.
    """
    initializers = initial_weights.initializers_of(model, variables)
    pairs = zip(variables, initializers, strict=True)
    unknown = [v for v, initializer in pairs if initializer is None]
    if unknown:
        raise ValueError(
            "Weights that adapt are drawn with the initializers of the "
            "model's layers. Received: a model whose layers do not tell those "
            f"of {[v.path for v in unknown]}. Give the layer a "
            "keras.initializers object as its attribute "
            f"`{unknown[0].name}_initializer`, or leave the weight out of "
            "`adapt`."
        )
    return initializers


def as_drawn(start: Any) -> Drawn | None:
    """Returns how initial weights are drawn, or `None` if they are learned.

    Args:
        start: See `Learner`.

    Raises:
        ValueError: If it is neither.
    """
    if isinstance(start, Drawn):
        return start
    if isinstance(start, str) and start in ("learned", "drawn"):
        return Drawn() if start == "drawn" else None
    raise ValueError(
        "`start` must be 'learned', 'drawn' or keras_meta.Drawn(seed). "
        f"Received: start={describe(start)}. Runs cannot be kept here, as "
        "every meta-step takes new tasks; keras_meta.OptimizerLearner and "
        "keras_meta.HyperparameterLearner keep theirs."
    )


def others(
    variables: Sequence[keras.Variable], left_out: Sequence[keras.Variable]
) -> list[keras.Variable]:
    """Returns variables without those that are left out."""
    ids = {id(v) for v in left_out}
    return [v for v in variables if id(v) not in ids]
