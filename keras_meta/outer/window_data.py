"""The data of a `HyperparameterLearner`, checked and cut into windows."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from keras_meta.checks import check_positive
from keras_meta.hyperparameters.example_weights import ExampleWeights
from keras_meta.outer import example_data
from keras_meta.outer.example_data import Windows

_DEFAULT_BATCH = 32


@dataclasses.dataclass(frozen=True)
class WindowMaker:
    """Makes windows of the data that `fit` is given.

    Attributes:
        model: The model, which the data must fit.
        training_loss: The loss that training descends.
        validation_loss: The loss that hyperparameters are learned from.
        example_weights: One for each training example, or `None`.
        steps: Training steps of a window.
        batches: Batches of a window. An implicit gradient is taken after the
            last step, on its own batch.
        seed: Seed of the order of examples.
    """

    model: keras.Model
    training_loss: Any
    validation_loss: Any
    example_weights: ExampleWeights | None
    steps: int
    batches: int
    seed: int

    def windows(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        validation_data: Any,
        batch_size: int | None,
        validation_batch_size: int | None,
    ) -> Windows:
        """Returns which examples each step learns from; checks all data.

        The arguments are those of `HyperparameterLearner.fit`.

        Raises:
            TypeError: If data are of another type.
            ValueError: If they are missing, or fit neither the losses nor
                each other.
        """
        if validation_data is None:
            raise ValueError(
                "`validation_data` must be given: hyperparameters are learned "
                "from the loss on data that the model does not train on. "
                "Received: validation_data=None."
            )
        training, size = example_data.load(
            "x, y", example_data.one_source(x, y, sample_weight)
        )
        validation, _ = example_data.load("validation_data", validation_data)
        if batch_size is None:
            batch_size = size or _DEFAULT_BATCH
        if validation_batch_size is None:
            validation_batch_size = batch_size
        check_positive(
            batch_size=batch_size, validation_batch_size=validation_batch_size
        )
        weights = self.example_weights
        if weights is not None and weights.count != training.size:
            raise ValueError(
                "`example_weights` must have one weight for each training "
                f"example. Received: {weights.count} weights, and "
                f"{training.size} examples."
            )
        training.check_labels("y", self.model, self.training_loss)
        validation.check_labels(
            "validation_data", self.model, self.validation_loss
        )
        return Windows(
            training,
            validation,
            batch_size,
            validation_batch_size,
            self.batches,
            self.steps,
            self.seed,
        )
