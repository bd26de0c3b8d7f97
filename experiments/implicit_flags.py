"""Flags of implicit MAML, which several programs share.

Proximal MAML, the unrolled gradient of the same inner loop, takes those of the
inner loop.
"""

from __future__ import annotations

from absl import flags

from experiments.algorithms import HAS_PROXIMAL_TERM
from experiments.algorithms import ImplicitOptions


def define(proximal: float, momentum: float) -> None:
    """Defines the flags.

    Args:
        proximal: Default strength of the proximal term.
        momentum: Default momentum of the inner loop.
    """
    flags.DEFINE_float(
        "proximal",
        proximal,
        "Implicit and proximal MAML: strength of the proximal term of the "
        "inner loss.",
    )
    flags.DEFINE_float(
        "momentum",
        momentum,
        "Implicit and proximal MAML: momentum of the inner loop.",
        lower_bound=0.0,
    )
    flags.DEFINE_integer(
        "cg_steps",
        5,
        "Implicit MAML: steps of conjugate gradient; 0 for none, which is "
        "first order.",
        lower_bound=0,
    )
    flags.DEFINE_float(
        "damping",
        0.0,
        "Implicit MAML: what is added to the Hessian's diagonal.",
        lower_bound=0.0,
    )
    flags.register_validator(
        "proximal", lambda value: value > 0, message="must be positive"
    )


def options(algorithm: str) -> ImplicitOptions | None:
    """Returns the values of the flags, `None` for other algorithms."""
    if algorithm not in HAS_PROXIMAL_TERM:
        return None
    values = flags.FLAGS
    return ImplicitOptions(
        proximal=values.proximal,
        momentum=values.momentum,
        cg_steps=values.cg_steps,
        damping=values.damping,
    )
