"""Environments, rollouts and what policies learn from them."""

from keras_meta.reinforcement.advantages import Advantages
from keras_meta.reinforcement.advantages import Outcomes
from keras_meta.reinforcement.append_log_std import AppendLogStd
from keras_meta.reinforcement.categorical import Categorical
from keras_meta.reinforcement.dice import DiCE
from keras_meta.reinforcement.distribution import Distribution
from keras_meta.reinforcement.environment import Environment
from keras_meta.reinforcement.environment import Transition
from keras_meta.reinforcement.gaussian import Gaussian
from keras_meta.reinforcement.likelihood_ratio import LikelihoodRatio
from keras_meta.reinforcement.linear_feature_baseline import (
    LinearFeatureBaseline,
)
from keras_meta.reinforcement.loaded_dice import LoadedDiCE
from keras_meta.reinforcement.point_navigation import PointNavigation
from keras_meta.reinforcement.policy_objective import PolicyObjective
from keras_meta.reinforcement.rollouts import Rollouts
from keras_meta.reinforcement.rollouts import roll_out
from keras_meta.reinforcement.score_function import ScoreFunction
from keras_meta.reinforcement.tabular_mdp import TabularMDP

__all__ = [
    "Advantages",
    "AppendLogStd",
    "Categorical",
    "DiCE",
    "Distribution",
    "Environment",
    "Gaussian",
    "LikelihoodRatio",
    "LinearFeatureBaseline",
    "LoadedDiCE",
    "Outcomes",
    "PointNavigation",
    "PolicyObjective",
    "roll_out",
    "Rollouts",
    "ScoreFunction",
    "TabularMDP",
    "Transition",
]
