"""The rate of a learner's inner loop, chosen on validation tasks."""

from __future__ import annotations

import dataclasses
from typing import Any

from experiments import few_shot_training
from experiments.few_shot_learners import LEARNERS
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

    Validation has the ways and shots of the first test.

    Args:
        learner: The learner, trained.
        settings: The settings, which leave the rate open.
        data_dir: Folder of the prepared data sets.
    """
    learners, accuracies = {}, {}
    for rate in LEARNERS[settings.learner].rates:
        fixed = dataclasses.replace(settings, inner_rate=rate)
        learners[rate] = few_shot_training.make(fixed)
        learners[rate].set_weights(learner.get_weights())
        measured = few_shot_training.validate(learners[rate], fixed, data_dir)
        accuracies[rate] = measured["accuracy"].mean
    best = max(accuracies, key=accuracies.__getitem__)
    record = {
        "inner_rate": best,
        "rates": {str(rate): value for rate, value in accuracies.items()},
    }
    return learners[best], record
