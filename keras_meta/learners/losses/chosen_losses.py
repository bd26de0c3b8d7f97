"""Which losses a learner uses, of those that it was given."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_meta.batching.output_specs import OutputSpecs
from keras_meta.inner.class_numbers import ClassNumbers
from keras_meta.inner.class_numbers import LabelRule
from keras_meta.inner.inner_loss import InnerLoss
from keras_meta.learners.arguments import as_inner_loss
from keras_meta.learners.losses.inner_losses import compares_class_numbers
from keras_meta.learners.losses.inner_losses import refuse_layers
from keras_meta.learners.losses.inner_losses import takes_class_numbers
from keras_meta.learners.losses.task_losses import as_query_loss


@dataclasses.dataclass(frozen=True)
class ChosenLosses:
    """The losses of support and query sets.

    Attributes:
        given: The learner's `inner_loss`, or `None`.
        compiled: The compiled loss, or `None`.
        weights: The `loss_weights` it was compiled with.
    """

    given: Any = None
    compiled: Any = None
    weights: Any = None

    @property
    def of_support(self) -> InnerLoss:
        """What the inner loop descends.

        Raises:
            ValueError: If there is no such loss.
        """
        refuse_layers(self.compiled)
        loss = self.compiled if self.given is None else self.given
        if loss is None:
            raise ValueError(
                "The inner loop needs a loss. Call `compile(loss=...)` or "
                "pass `inner_loss=` to the constructor."
            )
        return as_inner_loss(loss)

    @property
    def of_queries(self) -> InnerLoss:
        """The compiled loss, of each task alone.

        Raises:
            ValueError: If it is not known.
        """
        return as_query_loss(self.compiled, self.weights)

    @property
    def takes_class_numbers(self) -> bool:
        """Whether support sets are labelled by class numbers by default."""
        loss = self.of_support
        if loss.layer_loss is not None and self.compiled is not None:
            # It takes labels of both kinds; those of queries have one.
            return compares_class_numbers(self.compiled)
        return loss.is_sparse

    def support_rule(
        self, inputs: dict[str, Any], specs: OutputSpecs
    ) -> LabelRule | None:
        """Returns what `support_y` must be, if it is class numbers.

        Args:
            inputs: See `Learner.call`.
            specs: Knows what the model returns.
        """
        loss = self.of_support
        if not loss.is_sparse and loss.layer_loss is None:
            return None
        outputs = specs.of(inputs["support_x"], axes=2)
        if not takes_class_numbers(loss, inputs["support_y"], outputs):
            return None
        ways = specs.ways(inputs["support_x"], axes=2)
        return LabelRule("support_y", ClassNumbers(ways, loss.ignored_class))
