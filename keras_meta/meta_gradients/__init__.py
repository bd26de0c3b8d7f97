"""How the gradient of an inner loop comes back, one estimator a file.

What is exported here is what a meta-gradient of one's own needs; see
`MetaGradient`.
"""

from keras_meta.inner.problem import Derivatives
from keras_meta.inner.problem import InnerProblem
from keras_meta.inner.solver import Carry
from keras_meta.inner.solver import Record
from keras_meta.inner.solver import Solver
from keras_meta.inner.solver import losses_only
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
    "InnerProblem",
    "losses_only",
    "MetaObjective",
    "Record",
    "Runs",
    "Solver",
    "WindowEstimate",
]
