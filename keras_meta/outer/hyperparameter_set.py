"""The hyperparameters of a learner: where they are found, and their names."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_meta.checks import describe
from keras_meta.hyperparameters.hyperparameter import Hyperparameter
from keras_meta.hyperparameters.hyperparameter import hyperparameters_of
from keras_meta.update_rules.update_rule import UpdateRule


@dataclasses.dataclass(frozen=True)
class HyperparameterSet:
    """All that training depends on and a `HyperparameterLearner` learns.

    Attributes:
        found: Each `Hyperparameter`, once.
        passed: What the learner was given as `hyperparameters`.
        rule: The update rule, whose weights are hyperparameters too.
    """

    found: Sequence[Hyperparameter]
    passed: Sequence[Hyperparameter | keras.Variable]
    rule: UpdateRule

    @property
    def values(self) -> dict[str, np.ndarray]:
        """The values of all, by name."""
        values = {h.name: h.numpy() for h in self.found}
        for variable in self._plain:
            values[variable.path] = variable.numpy()
        return values

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """What the outer optimizer learns."""
        all_of_them = [h.raw for h in self.found] + self._plain
        return [v for v in all_of_them if v.trainable]

    @property
    def names(self) -> list[str]:
        """Names of `trainable_variables`."""
        names = {id(h.raw): h.name for h in self.found}
        return [names.get(id(v), v.path) for v in self.trainable_variables]

    @property
    def _plain(self) -> list[keras.Variable]:
        """Those that are variables, as those of the rule."""
        passed = [v for v in self.passed if isinstance(v, keras.Variable)]
        return [*self.rule.trainable_variables, *passed]

    def others(
        self, variables: Sequence[keras.Variable]
    ) -> list[keras.Variable]:
        """Returns those of some variables that are no hyperparameters."""
        held = {id(h.raw) for h in self.found} | set(map(id, self.passed))
        return [v for v in variables if id(v) not in held]


def as_hyperparameters(
    passed: Any,
) -> list[Hyperparameter | keras.Variable]:
    """Returns what was passed as `hyperparameters`, or raises."""
    if isinstance(passed, (list, tuple)) and all(
        isinstance(x, (Hyperparameter, keras.Variable)) for x in passed
    ):
        return [*passed]
    raise TypeError(
        "`hyperparameters` must be a list of keras_meta.Hyperparameter or "
        f"keras.Variable objects. Received: {describe(passed)}"
    )


def find_hyperparameters(
    model: keras.Model, inner_loss: Any, more: Sequence[Any]
) -> list[Hyperparameter]:
    """Returns all hyperparameters, each once.

    Args:
        model: The model. Its layers and their regularizers may hold some.
        inner_loss: The training loss, or `None`.
        more: Whatever else may hold or be some.

    Raises:
        ValueError: If several have one name.
    """
    holders = [
        *(v.regularizer for v in model.trainable_variables),
        *(
            holder
            for layer in model._flatten_layers()
            for holder in (
                layer,
                getattr(layer, "activity_regularizer", None),
            )
        ),
        inner_loss,
        *more,
    ]
    found = [h for holder in holders for h in hyperparameters_of(holder)]
    found = list({id(h): h for h in found}.values())
    names = [h.name for h in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            "Hyperparameters must have names of their own. Received: several "
            f"of the names {twice}. To share one, pass the same "
            "keras_meta.Hyperparameter everywhere."
        )
    return found
