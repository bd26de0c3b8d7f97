"""Model-agnostic meta-learning."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_meta.batching.annotations import map_annotated
from keras_meta.learners.arguments import as_step_weights
from keras_meta.learners.learner import Learner
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.meta_gradients.objective import Adaptation
from keras_meta.update_rules.update_rule import UpdateRule


@keras.saving.register_keras_serializable("keras_meta")
class MAML(Learner):
    """Learns an initialization from which few gradient steps suffice.

    The meta-gradient goes through the inner loop, second derivatives
    included, unless `meta_gradient` says otherwise.

    Args:
        model: See `Learner`.
        update_rule: See `Learner`.
        steps: See `Learner`.
        step_weights: Weights of the query loss after each inner step, as in
            MAML++'s multi-step loss. `None` uses the last step alone,
            `"uniform"` weighs all steps equally, and a sequence of `steps`
            numbers of at least 0 gives the weights. With weights, losses that
            layers add do not count, and regularizers are multiplied by the
            sum of the weights. `keras_meta.callbacks.AnnealStepWeights`
            shifts them to the last step over the first epochs.
        **kwargs: `evaluation_steps`, `adapt`, `inner_loss`, `proximal`,
            `meta_gradient`, `start`, `batch_statistics`, `name`; see
            `Learner`.

    Example:
    ```python
    learner = keras_meta.MAML(model, update_rule=0.4, steps=1)
    learner.compile(
        keras.optimizers.Adam(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    learner.fit(episodes, steps_per_epoch=500, epochs=10)
    ```

    References:
        - [Finn et al., 2017](https://arxiv.org/abs/1703.03400), algorithm 1.
        - [Antoniou et al., 2019](https://arxiv.org/abs/1810.09502),
          section 4, for the multi-step loss and learned rates.
    """

    step_weights: keras.Variable | None = None

    def __init__(
        self,
        model: keras.Model,
        update_rule: UpdateRule | float = 0.01,
        steps: int = 1,
        *,
        step_weights: str | Sequence[float] | None = None,
        **kwargs: Any,
    ):
        super().__init__(model, update_rule, steps, **kwargs)
        if step_weights is not None:
            if isinstance(step_weights, str) and step_weights == "uniform":
                step_weights = np.full(steps, 1 / steps)
            values = as_step_weights(step_weights, steps)
            self.step_weights = self.add_weight(
                name="step_weights",
                shape=(steps,),
                initializer=lambda shape, dtype: tf.cast(values, dtype),
                trainable=False,
            )
            self.check_meta_gradient(self.meta_gradient)

    def check_meta_gradient(self, value: MetaGradient) -> None:
        """Refuses one that cannot weigh the steps; see `Learner`."""
        super().check_meta_gradient(value)
        if self.step_weights is not None and not value.differentiates_steps:
            raise ValueError(
                "`step_weights` weigh losses after every inner step, which "
                f"{type(value).__name__} does not differentiate. Received: "
                f"meta_gradient={value}. Leave out step_weights, or use "
                "keras_meta.Unrolled() or keras_meta.FirstOrder()."
            )

    def outer_loss(
        self,
        x: dict[str, Any],
        y: Any,
        sample_weight: Any = None,
        adaptation: Adaptation | None = None,
    ) -> tuple[tf.Tensor, Any]:
        """Weighs the losses after all steps; see `Learner.outer_loss`."""
        if self.step_weights is None or adaptation is not None:
            return super().outer_loss(x, y, sample_weight, adaptation)
        predictions = self(x, training=True, every_step=True)
        losses = []
        for i in range(self.steps):
            y_pred = keras.tree.map_structure(
                functools.partial(_of_step, i), predictions
            )
            losses.append(
                self._compute_loss(
                    x=x,
                    y=y,
                    y_pred=y_pred,
                    sample_weight=sample_weight,
                    training=True,
                )
            )
        weights = tf.convert_to_tensor(self.step_weights)
        return tf.reduce_sum(weights * tf.stack(losses)), y_pred

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        weights = self.step_weights
        if weights is not None:
            weights = weights.numpy().tolist()
        return {**super().get_config(), "step_weights": weights}


def _of_step(i: int, predictions: tf.Tensor) -> tf.Tensor:
    return map_annotated(lambda y: y[i], predictions)
