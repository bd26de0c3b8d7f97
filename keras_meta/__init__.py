"""Meta-learning for Keras: any Keras model learns to learn."""

import keras as _keras

if _keras.backend.backend() != "tensorflow":
    raise ImportError(
        "keras_meta needs Keras on its TensorFlow backend: the inner loop "
        "differentiates with tf.GradientTape. Received: backend="
        f"{_keras.backend.backend()!r}. Set the environment variable "
        "KERAS_BACKEND=tensorflow before Keras is imported."
    )

from keras_meta import callbacks
from keras_meta import episodes
from keras_meta import meta_gradients
from keras_meta import models
from keras_meta import optimizers
from keras_meta import problems
from keras_meta import reinforcement
from keras_meta import sequence
from keras_meta.architectures.derive import derive
from keras_meta.architectures.mixed_operation import MixedOperation
from keras_meta.architectures.zero import Zero
from keras_meta.class_permutations import PermutationSpread
from keras_meta.class_permutations import class_permutation_spread
from keras_meta.evaluation import Curve
from keras_meta.evaluation import Interval
from keras_meta.evaluation import adaptation_curve
from keras_meta.evaluation import evaluate_tasks
from keras_meta.hyperparameters.example_weights import ExampleWeights
from keras_meta.hyperparameters.hyperparameter import Hyperparameter
from keras_meta.hyperparameters.regularizers import LearnedL1
from keras_meta.hyperparameters.regularizers import LearnedL2
from keras_meta.inner.learned_loss import LearnedLoss
from keras_meta.inner.loss_network import LossNetwork
from keras_meta.learners.adaptation.starts import Drawn
from keras_meta.learners.anil import ANIL
from keras_meta.learners.bayesian_maml import BayesianMAML
from keras_meta.learners.cosine_dense import CosineDense
from keras_meta.learners.fine_tuning import FineTuning
from keras_meta.learners.implicit_maml import ImplicitMAML
from keras_meta.learners.learner import Learner
from keras_meta.learners.logistic_regression import LogisticRegression
from keras_meta.learners.maml import MAML
from keras_meta.learners.maml_ensemble import MAMLEnsemble
from keras_meta.learners.mann import MANN
from keras_meta.learners.matching_network import MatchingNetwork
from keras_meta.learners.meta_learner import MetaLearner
from keras_meta.learners.meta_sgd import MetaSGD
from keras_meta.learners.metric_learner import MetricLearner
from keras_meta.learners.nearest_neighbour import NearestNeighbour
from keras_meta.learners.probabilistic_maml import ProbabilisticMAML
from keras_meta.learners.prototypical_network import PrototypicalNetwork
from keras_meta.learners.reptile import Reptile
from keras_meta.learners.ridge_head import RidgeHead
from keras_meta.learners.sampling_learner import SamplingLearner
from keras_meta.learners.sequence_learner import SequenceLearner
from keras_meta.learners.siamese_network import SiameseNetwork
from keras_meta.learners.snail import SNAIL
from keras_meta.likelihoods.coverage import Coverage
from keras_meta.likelihoods.gaussian_nll import GaussianNLL
from keras_meta.likelihoods.predictive_nll import PredictiveNLL
from keras_meta.meta_gradients.displacement import Displacement
from keras_meta.meta_gradients.evolution_strategies import EvolutionStrategies
from keras_meta.meta_gradients.first_order import FirstOrder
from keras_meta.meta_gradients.implicit import Implicit
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.meta_gradients.noise_reuse_es import NoiseReuseES
from keras_meta.meta_gradients.persistent_es import PersistentES
from keras_meta.meta_gradients.truncated import Truncated
from keras_meta.meta_gradients.unrolled import Unrolled
from keras_meta.outer.architecture_search import ArchitectureSearch
from keras_meta.outer.dataset_distillation import DatasetDistillation
from keras_meta.outer.hyperparameter_learner import HyperparameterLearner
from keras_meta.outer.kept import Kept
from keras_meta.outer.optimizer_learner import OptimizerLearner
from keras_meta.reinforcement.policy_learner import PolicyLearner
from keras_meta.update_rules.adam import Adam
from keras_meta.update_rules.coordinatewise_lstm import CoordinatewiseLSTM
from keras_meta.update_rules.gradient_descent import GradientDescent
from keras_meta.update_rules.hierarchical_rnn import HierarchicalRNN
from keras_meta.update_rules.learned_hyperparameters import (
    LearnedHyperparameters,
)
from keras_meta.update_rules.meta_learner_lstm import MetaLearnerLSTM
from keras_meta.update_rules.momentum import Momentum
from keras_meta.update_rules.rmsprop import RMSprop
from keras_meta.update_rules.stein_gradient import SteinGradient
from keras_meta.update_rules.update_rule import UpdateRule
from keras_meta.version import __version__

__all__ = [
    "__version__",
    "SteinGradient",
    "PredictiveNLL",
    "GaussianNLL",
    "Coverage",
    "SamplingLearner",
    "ProbabilisticMAML",
    "MAMLEnsemble",
    "BayesianMAML",
    "Adam",
    "adaptation_curve",
    "ANIL",
    "ArchitectureSearch",
    "callbacks",
    "class_permutation_spread",
    "CoordinatewiseLSTM",
    "CosineDense",
    "Curve",
    "DatasetDistillation",
    "derive",
    "Displacement",
    "Drawn",
    "episodes",
    "evaluate_tasks",
    "EvolutionStrategies",
    "ExampleWeights",
    "FineTuning",
    "FirstOrder",
    "GradientDescent",
    "HierarchicalRNN",
    "Hyperparameter",
    "HyperparameterLearner",
    "Implicit",
    "ImplicitMAML",
    "Interval",
    "Kept",
    "LearnedHyperparameters",
    "LearnedL1",
    "LearnedL2",
    "LearnedLoss",
    "Learner",
    "LogisticRegression",
    "LossNetwork",
    "MAML",
    "MANN",
    "MatchingNetwork",
    "meta_gradients",
    "MetaGradient",
    "MetaLearner",
    "MetaLearnerLSTM",
    "MetaSGD",
    "MetricLearner",
    "MixedOperation",
    "models",
    "Momentum",
    "NearestNeighbour",
    "NoiseReuseES",
    "OptimizerLearner",
    "optimizers",
    "PermutationSpread",
    "PersistentES",
    "PolicyLearner",
    "problems",
    "PrototypicalNetwork",
    "reinforcement",
    "Reptile",
    "RidgeHead",
    "RMSprop",
    "sequence",
    "SequenceLearner",
    "SNAIL",
    "SiameseNetwork",
    "Truncated",
    "Unrolled",
    "UpdateRule",
    "Zero",
]
