"""How the gradient of an inner loop comes back, one estimator a file.

These are the names that a custom meta-gradient needs; see `MetaGradient`.
"""

from keras_meta.inner.inner_loop import InnerLoop
from keras_meta.inner.problem import Derivatives
from keras_meta.inner.problem import InnerProblem
from keras_meta.inner.solver import Carry
from keras_meta.inner.solver import Record
from keras_meta.inner.solver import Solver
from keras_meta.inner.solver import losses_only
from keras_meta.meta_gradients.evolution import Evolution
from keras_meta.meta_gradients.evolution import Particles
from keras_meta.meta_gradients.evolution import Window
from keras_meta.meta_gradients.evolution import WindowNoise
from keras_meta.meta_gradients.objective import Adaptation
from keras_meta.meta_gradients.objective import Estimate
from keras_meta.meta_gradients.objective import MetaObjective
from keras_meta.meta_gradients.runs import Runs
from keras_meta.meta_gradients.runs import WindowEstimate

__all__ = [
    "Adaptation",
    "Carry",
    "Derivatives",
    "Estimate",
    "Evolution",
    "InnerLoop",
    "InnerProblem",
    "losses_only",
    "MetaObjective",
    "Particles",
    "Record",
    "Runs",
    "Solver",
    "Window",
    "WindowEstimate",
    "WindowNoise",
]
