"""A model whose tasks differ in all that it learns."""

from __future__ import annotations

from collections.abc import Sequence

import keras

from keras_meta.batching.task_batched import TaskBatched


class BatchedOverAll:
    """Makes a model task-batched over all that it learns, once.

    Tasks with meta-parameters of their own need it, as evolution strategies
    have them: there, weights that do not adapt differ between tasks too.

    Args:
        model: The model.
    """

    def __init__(self, model: keras.Model):
        self._model = model
        self._known: TaskBatched | None = None

    def get(self, adapted: Sequence[keras.Variable]) -> TaskBatched:
        """Returns the task-batched model.

        It is made anew after a layer was frozen or unfrozen.

        Args:
            adapted: The variables that adapt, which come first.
        """
        variables = {id(v): v for v in adapted}
        variables.update((id(v), v) for v in self._model.trainable_variables)
        known = self._known
        if known is None or list(variables) != [id(v) for v in known.adapted]:
            known = TaskBatched(self._model, list(variables.values()))
            self._known = known
        return known
