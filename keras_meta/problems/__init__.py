"""Families of optimization problems for meta-training update rules."""

from keras_meta.problems.batches import batches
from keras_meta.problems.model_problem import ModelProblem
from keras_meta.problems.problem import Problem
from keras_meta.problems.quadratic import Quadratic
from keras_meta.problems.random_scaling import RandomScaling

__all__ = ["batches", "ModelProblem", "Problem", "Quadratic", "RandomScaling"]
