"""Training a new head, or the whole network, on each task."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence
from typing import Any
from typing import Self

import keras

from keras_meta.checks import check_at_least
from keras_meta.checks import check_choice
from keras_meta.learners.arguments import check_is_built
from keras_meta.learners.cosine_dense import CosineDense
from keras_meta.learners.learner import Learner
from keras_meta.learners.not_meta_trained import NotMetaTrained
from keras_meta.learners.tasks.texts import nested_inputs
from keras_meta.learners.tasks.texts import output_shape
from keras_meta.update_rules.momentum import Momentum
from keras_meta.update_rules.update_rule import UpdateRule

# Zeros favour no class. Cosines need directions.
_HEADS = {
    "linear": lambda ways: keras.layers.Dense(
        ways, kernel_initializer="zeros", name="head"
    ),
    "cosine": lambda ways: CosineDense(ways, name="head"),
}


@keras.saving.register_keras_serializable("keras_meta")
class FineTuning(NotMetaTrained, Learner):
    """Trains a new head on the features of each support set.

    A baseline that is not meta-trained: train the encoder as an ordinary
    classifier of the training classes first. It is a learner with an inner
    loop like `MAML`, whose start is not learned: each task begins with the
    encoder as it is and a new head. By default, the head alone is trained,
    which is the Baseline of Chen et al.; with `head="cosine"`, Baseline++.
    `adapt="all"` trains the encoder, too, at the same rate.

    The best rate and number of steps depend on the features. Choose them on
    tasks of validation classes; `keras_meta.adaptation_curve` shows all
    numbers of steps at once.

    Args:
        encoder: A built Keras model with one output, which is flattened.
        ways: Number of classes in a task.
        update_rule: An update rule, or a number for `GradientDescent` with
            that rate; `Momentum(0.01, momentum=0.9)` by default.
        steps: Steps on each task, each with the whole support set.
        head: `"linear"`, a `keras.layers.Dense` that starts at zero; or
            `"cosine"`, a `CosineDense` that starts at random vectors, the
            same in all tasks.
        adapt: What is trained on a task: `"head"`, `"all"`, or whatever
            `Learner` takes.
        batch_statistics: See `Learner`. By default `"running"` if `adapt` is
            `"head"`: the moving averages of the encoder's own training.
            Otherwise `"support"`, because moving averages do not fit weights
            that change. A convolutional network that was fine-tuned on
            satellite images was 12 points worse with them, each at its best
            rate.
        **kwargs: `inner_loss`, `proximal`, `name`; see `Learner`. `proximal`
            is a weight decay for a linear head.

    Raises:
        ValueError: If an argument is out of range, or the encoder is not
            built or does not tell the size of its output.

    Example:
    >>> import keras
    >>> import keras_meta
    >>> import numpy as np
    >>>
    >>> encoder = keras.Sequential([keras.Input([2]), keras.layers.Dense(4)])
    >>> learner = keras_meta.FineTuning(encoder, ways=3, steps=20)
    >>> loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    >>> learner.compile(loss=loss, metrics=["accuracy"])
    >>> x = {
    ...     "support_x": np.random.normal(size=[8, 6, 2]),
    ...     "support_y": np.tile([0, 1, 2, 0, 1, 2], [8, 1]),
    ...     "query_x": np.random.normal(size=[8, 3, 2]),
    ... }
    >>> learner(x).shape
    TensorShape([8, 3, 3])

    References:
        - [Chen et al., 2019](https://arxiv.org/abs/1904.04232), sections 3.1
          and 3.2. The published code takes batches of 4 in the inner loop and
          momentum with dampening; here each step takes the whole support set.
    """

    def __init__(
        self,
        encoder: keras.Model,
        ways: int,
        update_rule: UpdateRule | float | None = None,
        steps: int = 100,
        *,
        head: str = "linear",
        adapt: str | Sequence | Callable[[keras.Variable], bool] = "head",
        batch_statistics: str | None = None,
        **kwargs: Any,
    ):
        check_is_built("encoder", encoder)
        check_at_least(2, ways=ways)
        check_choice("head", head, tuple(_HEADS))
        if update_rule is None:
            update_rule = Momentum(0.01, momentum=0.9)
        if batch_statistics is None:
            batch_statistics = "running" if adapt == "head" else "support"
        super().__init__(
            _with_head(encoder, _HEADS[head](int(ways))),
            update_rule,
            steps,
            adapt=adapt,
            batch_statistics=batch_statistics,
            **kwargs,
        )
        self.encoder = encoder
        self.ways = int(ways)
        self.head = head

    def with_ways(self, ways: int) -> Self:
        """Returns a learner for tasks with another number of classes.

        The encoder is shared and the head is new. The learner is not compiled.

        Args:
            ways: Number of classes in a task.
        """
        return self._copy(ways=ways)

    def with_encoder(self, encoder: keras.Model) -> Self:
        """Returns a learner with another encoder.

        The head's start is copied. The learner is not compiled. Where the
        head alone is trained and many tasks are drawn from few examples,
        embed these once and give their embeddings to a learner with an
        encoder that returns its inputs.

        Args:
            encoder: A built model whose outputs have as many entries as those
                of the present one.

        Raises:
            ValueError: If the outputs have another number of entries.

        Example:
        ```python
        embeddings = learner.encoder.predict(images)
        as_they_are = keras.Sequential(
            [keras.Input(embeddings.shape[1:]), keras.layers.Identity()]
        )
        head = learner.with_encoder(as_they_are)
        ```
        """
        other = self._copy(encoder=encoder)
        old, new = self.model.layers[-1], other.model.layers[-1]
        for variable, value in zip(new.weights, old.weights, strict=True):
            if variable.shape != value.shape:
                raise ValueError(
                    "`encoder` must have outputs with as many entries as the "
                    f"present one. Received: '{encoder.name}', for which "
                    f"`{variable.path}` has the shape {variable.shape} "
                    f"instead of {value.shape}. Make a new FineTuning learner "
                    "with it."
                )
            variable.assign(value)
        return other

    def _copy(self, **changes: Any) -> Self:
        """Returns a learner with other arguments of the constructor."""
        config = {**self.get_config(), "encoder": self.encoder, **changes}
        return type(self).from_config(config)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = super().get_config()
        for key in ("model", "meta_gradient", "start", "evaluation_steps"):
            del config[key]
        return {
            **config,
            "encoder": keras.saving.serialize_keras_object(self.encoder),
            "ways": self.ways,
            "head": self.head,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Makes a learner from `get_config`'s dict."""
        encoder = config["encoder"]
        if isinstance(encoder, dict):
            encoder = keras.saving.deserialize_keras_object(encoder)
        return super().from_config({**config, "encoder": encoder})


def _with_head(encoder: keras.Model, head: keras.Layer) -> keras.Model:
    """Returns a model of an encoder and a layer on its flat output."""
    shape = output_shape(encoder)
    is_known = shape is not None and None not in shape[1:]
    if not is_known or not getattr(encoder, "inputs", None):
        raise ValueError(
            "`encoder` must tell the sizes of its input and of its only "
            f"output. Received: the encoder '{encoder.name}' with an output "
            f"of the shape {shape}. Make it a keras.Sequential that starts "
            "with keras.Input, or a functional model."
        )
    x = nested_inputs(encoder)
    return keras.Model(x, head(keras.layers.Flatten()(encoder(x))))
