"""Learners that learn nothing from tasks."""

from __future__ import annotations

import keras


class NotMetaTrained:
    """Makes a learner that adapts, but keeps the weights it is given.

    Mix it in before the learner's base. The learner is compiled, evaluated,
    saved and exported as others are, and has no trainable variables. Its
    `fit` refuses.
    """

    variables: list[keras.Variable]
    weights: list[keras.Variable]

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """What is learned from tasks: nothing."""
        return []

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        """What is learned from tasks: nothing."""
        return []

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        """All variables."""
        return self.variables

    @property
    def non_trainable_weights(self) -> list[keras.Variable]:
        """All weights."""
        return self.weights

    @property
    def _instead_of_fit(self) -> str:
        return (
            "It adapts an encoder as it is. Train that as a classifier of the "
            "training classes, on `keras_meta.episodes.Classes.examples`, and "
            "measure the learner by `keras_meta.evaluate_tasks`. To train an "
            "encoder on tasks, use keras_meta.PrototypicalNetwork or "
            "keras_meta.MAML."
        )
