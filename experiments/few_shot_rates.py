"""The rate of a learner's inner loop, chosen on validation tasks."""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments import few_shot_training
from experiments.few_shot_learners import LEARNERS
from experiments.few_shot_measure import measures
from experiments.few_shot_settings import Settings
from keras_meta.learners.fine_tuning import FineTuning
from keras_meta.learners.meta_learner import MetaLearner


def is_open(settings: Settings) -> bool:
    """Returns whether validation chooses the rate."""
    return bool(LEARNERS[settings.learner].rates) and (
        settings.inner_rate is None
    )


def choose(
    learner: FineTuning, settings: Settings, data_dir: str | None
) -> tuple[MetaLearner, dict[str, Any]]:
    """Returns the learner with the best rate, and what to record.

    Validation has the ways and shots of the first test. A rate at which the
    inner loop diverges has no accuracy, `None` in the record.

    Args:
        learner: The learner, trained.
        settings: The settings, which leave the rate open.
        data_dir: Folder of the prepared data sets.

    Raises:
        FloatingPointError: If the inner loop diverges at all rates.
    """
    learners, accuracies = {}, {}
    for rate in LEARNERS[settings.learner].rates:
        fixed = dataclasses.replace(settings, inner_rate=rate)
        learners[rate] = _with_weights_of(learner, fixed)
        accuracies[rate] = _accuracy(learners[rate], fixed, data_dir)
    finite = {rate: x for rate, x in accuracies.items() if x is not None}
    if not finite:
        raise FloatingPointError(
            f"The inner loop of {settings.learner} diverges at all rates that "
            f"are tried: {', '.join(map(str, accuracies))}. Set a lower one, "
            "--inner_rate."
        )
    best = max(finite, key=finite.__getitem__)
    record = {
        "inner_rate": best,
        "rates": {str(rate): value for rate, value in accuracies.items()},
    }
    return learners[best], record


def _with_weights_of(learner: FineTuning, settings: Settings) -> FineTuning:
    """Returns a learner of other settings, with the same encoder."""
    # TensorFlow would trace the function that embeds images for each encoder.
    other = few_shot_training.make(settings).with_encoder(learner.encoder)
    other.compile(**measures())
    other.set_weights(learner.get_weights())
    return other


def _accuracy(
    learner: MetaLearner, settings: Settings, data_dir: str | None
) -> float | None:
    try:
        measured = few_shot_training.validate(learner, settings, data_dir)
    except FloatingPointError:
        return None
    return measured["accuracy"].mean
