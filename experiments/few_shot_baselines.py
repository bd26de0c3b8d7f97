"""How the learners of few-shot classification that train on no task are made.

All are tested on the same tasks as the others.
"""

from __future__ import annotations

from typing import Any

import keras

from experiments import few_shot_data
from experiments.few_shot_settings import Case
from experiments.few_shot_settings import Settings
from keras_meta.learners.cosine_dense import CosineDense
from keras_meta.learners.fine_tuning import FineTuning
from keras_meta.learners.nearest_neighbour import NearestNeighbour
from keras_meta.update_rules.momentum import Momentum

# Classes from which Baseline++ has larger scores.
_MANY_CLASSES = 200
# Rates among which validation chooses. The first is the published one.
RATES = (0.01, 0.001, 0.003, 0.03, 0.1)
# The scores of a cosine head are at most 2, so their gradients are small.
COSINE_RATES = (0.01, 0.03, 0.1, 0.3, 1.0)


def nearest_pixels(
    settings: Settings, network: keras.Model
) -> NearestNeighbour:
    """Returns a learner that compares pixels."""
    pixels = keras.Sequential(
        [keras.Input(network.input_shape[1:]), keras.layers.Flatten()]
    )
    return NearestNeighbour(pixels, settings.train_ways)


def nearest_neighbour(
    settings: Settings, network: keras.Model
) -> NearestNeighbour:
    """Returns a learner that compares features by their direction."""
    return NearestNeighbour(
        few_shot_data.encoder_of(network),
        settings.train_ways,
        distance="cosine",
        batch_statistics=settings.batch_statistics,
    )


def fine_tuning(settings: Settings, network: keras.Model) -> FineTuning:
    """Returns a learner that trains a linear head."""
    return _fine_tuning(settings, network, head="linear", adapt="head")


def baseline_plus_plus(settings: Settings, network: keras.Model) -> FineTuning:
    """Returns a learner that trains a head of cosines."""
    return _fine_tuning(settings, network, head="cosine", adapt="head")


def fine_tuning_all(settings: Settings, network: keras.Model) -> FineTuning:
    """Returns a learner that trains a linear head and the encoder."""
    return _fine_tuning(settings, network, head="linear", adapt="all")


def _fine_tuning(
    settings: Settings, network: keras.Model, *, head: str, adapt: str
) -> FineTuning:
    return FineTuning(
        few_shot_data.encoder_of(network),
        settings.train_ways,
        Momentum(settings.inner_rate, momentum=0.9),
        settings.steps,
        head=head,
        adapt=adapt,
        batch_statistics=settings.batch_statistics,
    )


def cosine_classifier(learner: FineTuning, classes: int) -> keras.Model:
    """Returns the encoder of a learner with a head of cosines.

    Args:
        learner: The learner, which shares its encoder with the classifier.
        classes: Number of classes.
    """
    scale = 10.0 if classes > _MANY_CLASSES else 2.0
    return keras.Sequential([learner.encoder, CosineDense(classes, scale)])


def image_defaults(case: Case) -> dict[str, Any]:
    """Returns the settings of learners whose encoder trains on images."""
    return {
        "meta_batch": 128,
        "validate_every": 500,
        "batch_statistics": "running",
    }


def head_defaults(case: Case) -> dict[str, Any]:
    """Returns the settings of learners that train a head on each task."""
    return {**image_defaults(case), "steps": 100, "evaluation_steps": 100}


def fine_tuning_defaults(case: Case) -> dict[str, Any]:
    """Returns the settings of learners that train everything on each task."""
    return {
        **image_defaults(case),
        "steps": 10,
        "evaluation_steps": 10,
        # Moving averages are those of other weights, or of none.
        "batch_statistics": "support",
    }
