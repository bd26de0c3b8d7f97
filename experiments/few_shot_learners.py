"""The learners of few-shot classification.

A learner is a row of `LEARNERS`, and, if there are published numbers, a row in
`experiments.published`. A row says what `Row` asks for; nothing else knows
learners by name.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import keras

from experiments import few_shot_baselines
from experiments import few_shot_data
from experiments.algorithms import make_learner
from experiments.few_shot_settings import Case
from experiments.few_shot_settings import Settings
from keras_meta.callbacks import AnnealStepWeights
from keras_meta.learners.logistic_regression import LogisticRegression
from keras_meta.learners.maml import MAML
from keras_meta.learners.mann import MANN
from keras_meta.learners.matching_network import MatchingNetwork
from keras_meta.learners.meta_learner import MetaLearner
from keras_meta.learners.metric_learner import MetricLearner
from keras_meta.learners.prototypical_network import PrototypicalNetwork
from keras_meta.learners.ridge_head import RidgeHead
from keras_meta.learners.siamese_network import SiameseNetwork
from keras_meta.learners.snail import SNAIL
from keras_meta.sequence.memory_cell import MemoryCell
from keras_meta.update_rules.gradient_descent import GradientDescent
from keras_meta.update_rules.meta_learner_lstm import MetaLearnerLSTM

# Ways from which recipes for many classes apply.
_MANY = 20
# Iterations in which MAML++ shifts the loss to the last step.
_ANNEALING = 5_000


class Training(enum.Enum):
    """What a learner is trained on."""

    EPISODES = "episodes"
    # Single images of the training classes, by ordinary classification.
    IMAGES = "images"
    NOTHING = "nothing"


def _no_callbacks(settings: Settings) -> Sequence[keras.callbacks.Callback]:
    return ()


def linear_classifier(learner: MetricLearner, classes: int) -> keras.Model:
    """Returns the encoder of a learner with a linear head.

    Args:
        learner: The learner, which shares its encoder with the classifier.
        classes: Number of classes.
    """
    return keras.Sequential([learner.encoder, keras.layers.Dense(classes)])


@dataclasses.dataclass(frozen=True)
class Row:
    """A learner.

    Attributes:
        label: Name in tables.
        make: Function of the settings and of a network with a head for the
            classes of a training task. It returns the uncompiled learner.
        defaults: Function of the case. It returns the settings that differ
            from those of other learners; flags override them.
        training: What the learner is trained on.
        any_ways: Whether the learner has `with_ways`, so that it may be tested
            at other ways than in training.
        optimizer: Class of the optimizer.
        callbacks: Function of the settings. It returns what training needs
            besides validation and checkpoints.
        classifier: With `Training.IMAGES`: function of the learner and the
            number of training classes. It returns the model to fit, which
            shares with the learner what is trained.
        encoder_from: With `Training.NOTHING`: name of the learner whose run
            trains the encoder, or `None` for a random one. Several learners
            may share one.
        rates: Rates of the inner loop, among which validation chooses before
            the test if none is set. Validation during training uses the
            first.
    """

    label: str
    make: Callable[[Settings, keras.Model], MetaLearner]
    defaults: Callable[[Case], dict[str, Any]]
    training: Training = Training.EPISODES
    any_ways: bool = False
    optimizer: type[keras.optimizers.Optimizer] = keras.optimizers.Adam
    callbacks: Callable[[Settings], Sequence[keras.callbacks.Callback]] = (
        _no_callbacks
    )
    classifier: Callable[[Any, int], keras.Model] = linear_classifier
    encoder_from: str | None = None
    rates: tuple[float, ...] = ()


def defaults(case: Case, learner: str) -> dict[str, Any]:
    """Returns all settings that have a default.

    Args:
        case: The case.
        learner: Name of the learner.
    """
    data_set = few_shot_data.DATA_SETS[case.data_set]
    return {
        "network": data_set.networks[0],
        "filters": 64,
        "train_ways": case.ways,
        "train_shots": case.shots,
        "queries": 15,
        "train_queries": None,
        "meta_rate": 1e-3,
        "meta_decay": "none",
        "decay_iterations": None,
        "clip": None,
        "steps": None,
        "evaluation_steps": None,
        "inner_rate": None,
        "batch_size": None,
        "batch_statistics": "batch",
        "validate_every": 500,
        "validation_tasks": 300,
        "test_tasks": 600,
        **data_set.defaults,
        **LEARNERS[learner].defaults(case),
    }


def _by_steps(
    algorithm: str,
) -> Callable[[Settings, keras.Model], MetaLearner]:
    def make(settings: Settings, network: keras.Model) -> MetaLearner:
        return make_learner(
            algorithm,
            network,
            inner_rate=settings.inner_rate,
            batch_size=settings.batch_size,
            seed=settings.seed,
            implicit=settings.implicit,
            **_inner_loop(settings),
        )

    return make


def _maml_plus_plus(settings: Settings, network: keras.Model) -> MetaLearner:
    return MAML(
        network,
        GradientDescent(settings.inner_rate, learn="layer_step"),
        step_weights="uniform",
        **_inner_loop(settings),
    )


def _meta_learner_lstm(settings: Settings, network: keras.Model) -> MetaLearner:
    return MAML(
        network,
        MetaLearnerLSTM(seed=settings.seed),
        meta_gradient="first_order",
        **_inner_loop(settings),
    )


def _inner_loop(settings: Settings) -> dict[str, Any]:
    return {
        "steps": settings.steps,
        "evaluation_steps": settings.evaluation_steps,
        "batch_statistics": settings.batch_statistics,
    }


def _by_metric(
    learner: type[MetricLearner],
) -> Callable[[Settings, keras.Model], MetaLearner]:
    def make(settings: Settings, network: keras.Model) -> MetaLearner:
        return learner(
            few_shot_data.encoder_of(network),
            settings.train_ways,
            batch_statistics=settings.batch_statistics,
        )

    return make


def _snail(settings: Settings, network: keras.Model) -> MetaLearner:
    return SNAIL(
        few_shot_data.encoder_of(network),
        settings.train_ways,
        settings.train_shots,
        **_sequence(settings),
    )


def _mann(settings: Settings, network: keras.Model) -> MetaLearner:
    return MANN(
        few_shot_data.encoder_of(network),
        settings.train_ways,
        # On clusters of points it learned sooner than an LSTM controller.
        MemoryCell(controller="dense"),
        **_sequence(settings),
    )


def _sequence(settings: Settings) -> dict[str, Any]:
    return {
        "seed": settings.seed,
        "batch_statistics": settings.batch_statistics,
    }


def _anneal(settings: Settings) -> Sequence[keras.callbacks.Callback]:
    epochs = max(1, _ANNEALING // settings.validate_every)
    return [AnnealStepWeights(epochs)]


def _maml_defaults(case: Case) -> dict[str, Any]:
    if case.data_set != "omniglot":
        return {
            "filters": 32,
            "steps": 5,
            "evaluation_steps": 10,
            # The published 0.01, for a loss that is a sum over five classes.
            "inner_rate": 0.05,
            "meta_batch": 4,
            "clip": 10.0,
        }
    many = case.ways >= _MANY
    return {
        "steps": 5 if many else 1,
        "evaluation_steps": 5 if many else 3,
        "inner_rate": 0.4,
        "meta_batch": 16 if many else 32,
    }


def _meta_sgd_defaults(case: Case) -> dict[str, Any]:
    rate = 0.5 if case.ways >= _MANY else None
    return {
        **_maml_defaults(case),
        "steps": 1,
        "evaluation_steps": 1,
        "inner_rate": rate,
    }


def _maml_plus_plus_defaults(case: Case) -> dict[str, Any]:
    return {
        **_maml_defaults(case),
        "steps": 5,
        "evaluation_steps": 5,
        "meta_decay": "cosine",
    }


def _meta_learner_lstm_defaults(case: Case) -> dict[str, Any]:
    steps = 5 if case.shots == 1 else 8
    return {
        **_maml_defaults(case),
        "steps": steps,
        "evaluation_steps": steps,
        "inner_rate": None,
        "clip": 0.25,
    }


def _proximal_defaults(case: Case) -> dict[str, Any]:
    steps = 25 if case.ways >= _MANY else 16
    return {
        **_maml_defaults(case),
        "steps": steps,
        "evaluation_steps": steps,
        "inner_rate": 0.1,
    }


def _reptile_defaults(case: Case) -> dict[str, Any]:
    many = case.ways >= _MANY
    return {
        **_maml_defaults(case),
        "train_shots": max(10, case.shots),
        "steps": 10 if many else 5,
        "evaluation_steps": 50,
        "inner_rate": 5e-4 if many else 1e-3,
        "batch_size": 20 if many else 10,
        "meta_rate": 1.0,
        "meta_decay": "linear",
        "meta_batch": 5,
        "clip": None,
    }


def _metric_defaults(case: Case) -> dict[str, Any]:
    data_set = few_shot_data.DATA_SETS[case.data_set]
    return {
        "train_ways": max(case.ways, data_set.train_ways),
        "train_queries": None if case.data_set == "omniglot" else 5,
        "meta_batch": 1,
        "meta_decay": "halving",
        "validate_every": 1_000,
        "batch_statistics": "running",
    }


def _sequence_defaults(case: Case) -> dict[str, Any]:
    # Many tasks with few queries: a query costs as much as the support set.
    return {
        "meta_batch": 16,
        "train_queries": 2,
        "validate_every": 250,
        "batch_statistics": "running",
    }


LEARNERS = {
    "maml": Row("MAML", _by_steps("maml"), _maml_defaults),
    "fomaml": Row("First-order MAML", _by_steps("fomaml"), _maml_defaults),
    "implicit_maml": Row(
        "Implicit MAML", _by_steps("implicit_maml"), _proximal_defaults
    ),
    "proximal_maml": Row(
        "MAML, proximal", _by_steps("proximal_maml"), _proximal_defaults
    ),
    "anil": Row("ANIL", _by_steps("anil"), _maml_defaults),
    "reptile": Row(
        "Reptile",
        _by_steps("reptile"),
        _reptile_defaults,
        optimizer=keras.optimizers.SGD,
    ),
    "meta_sgd": Row("Meta-SGD", _by_steps("meta_sgd"), _meta_sgd_defaults),
    "maml_plus_plus": Row(
        "MAML++", _maml_plus_plus, _maml_plus_plus_defaults, callbacks=_anneal
    ),
    "meta_learner_lstm": Row(
        "Meta-learner LSTM", _meta_learner_lstm, _meta_learner_lstm_defaults
    ),
    "prototypical": Row(
        "Prototypical network",
        _by_metric(PrototypicalNetwork),
        _metric_defaults,
        any_ways=True,
    ),
    "matching": Row(
        "Matching network",
        _by_metric(MatchingNetwork),
        _metric_defaults,
        any_ways=True,
    ),
    "ridge": Row(
        "Ridge head", _by_metric(RidgeHead), _metric_defaults, any_ways=True
    ),
    "siamese": Row(
        "Siamese network",
        _by_metric(SiameseNetwork),
        _metric_defaults,
        any_ways=True,
    ),
    "snail": Row("SNAIL", _snail, _sequence_defaults),
    "mann": Row("MANN", _mann, _sequence_defaults),
    "pretrained_prototypes": Row(
        "Prototypes, pre-trained",
        _by_metric(PrototypicalNetwork),
        few_shot_baselines.image_defaults,
        training=Training.IMAGES,
        any_ways=True,
    ),
    "pretrained_ridge": Row(
        "Ridge head, pre-trained",
        _by_metric(RidgeHead),
        few_shot_baselines.image_defaults,
        training=Training.NOTHING,
        any_ways=True,
        encoder_from="pretrained_prototypes",
    ),
    "untrained_prototypes": Row(
        "Prototypes, untrained",
        _by_metric(PrototypicalNetwork),
        few_shot_baselines.image_defaults,
        training=Training.NOTHING,
        any_ways=True,
    ),
    "nearest_pixels": Row(
        "Nearest neighbour, pixels",
        few_shot_baselines.nearest_pixels,
        few_shot_baselines.image_defaults,
        training=Training.NOTHING,
        any_ways=True,
    ),
    "nearest_untrained": Row(
        "Nearest neighbour, untrained",
        few_shot_baselines.nearest_neighbour,
        few_shot_baselines.image_defaults,
        training=Training.NOTHING,
        any_ways=True,
    ),
    "nearest_neighbour": Row(
        "Nearest neighbour, pre-trained",
        few_shot_baselines.nearest_neighbour,
        few_shot_baselines.image_defaults,
        training=Training.NOTHING,
        encoder_from="pretrained_prototypes",
        any_ways=True,
    ),
    "logistic_regression": Row(
        "Logistic regression, pre-trained",
        _by_metric(LogisticRegression),
        few_shot_baselines.image_defaults,
        training=Training.NOTHING,
        encoder_from="pretrained_prototypes",
        any_ways=True,
    ),
    "fine_tuning": Row(
        "Fine-tuning, head (Baseline)",
        few_shot_baselines.fine_tuning,
        few_shot_baselines.head_defaults,
        training=Training.NOTHING,
        encoder_from="pretrained_prototypes",
        any_ways=True,
        rates=few_shot_baselines.RATES,
    ),
    "baseline_plus_plus": Row(
        "Fine-tuning, cosine head (Baseline++)",
        few_shot_baselines.baseline_plus_plus,
        few_shot_baselines.head_defaults,
        training=Training.IMAGES,
        classifier=few_shot_baselines.cosine_classifier,
        any_ways=True,
        rates=few_shot_baselines.COSINE_RATES,
    ),
    "fine_tuning_all": Row(
        "Fine-tuning, whole network",
        few_shot_baselines.fine_tuning_all,
        few_shot_baselines.fine_tuning_defaults,
        training=Training.NOTHING,
        encoder_from="pretrained_prototypes",
        any_ways=True,
        rates=few_shot_baselines.RATES,
    ),
    "from_scratch": Row(
        "Random initialization",
        few_shot_baselines.fine_tuning_all,
        few_shot_baselines.fine_tuning_defaults,
        training=Training.NOTHING,
        any_ways=True,
        rates=few_shot_baselines.RATES,
    ),
}
