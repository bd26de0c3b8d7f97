"""Meta-gradients by name."""

from __future__ import annotations

from collections.abc import Callable

from keras_meta.checks import describe
from keras_meta.meta_gradients.displacement import Displacement
from keras_meta.meta_gradients.evolution_strategies import EvolutionStrategies
from keras_meta.meta_gradients.first_order import FirstOrder
from keras_meta.meta_gradients.implicit import Implicit
from keras_meta.meta_gradients.meta_gradient import MetaGradient
from keras_meta.meta_gradients.noise_reuse_es import NoiseReuseES
from keras_meta.meta_gradients.persistent_es import PersistentES
from keras_meta.meta_gradients.unrolled import Unrolled

_BY_NAME: dict[str, Callable[[], MetaGradient]] = {
    "displacement": Displacement,
    "evolution_strategies": EvolutionStrategies,
    "first_order": FirstOrder,
    "implicit": Implicit,
    "noise_reuse_es": NoiseReuseES,
    "persistent_es": PersistentES,
    "unrolled": Unrolled,
}


def as_meta_gradient(value: MetaGradient | str) -> MetaGradient:
    """Returns a meta-gradient; raises if the name is unknown.

    Args:
        value: A meta-gradient, or the name of one for its default options.

    Raises:
        TypeError: If `value` is neither.
        ValueError: If the name is unknown.
    """
    if isinstance(value, MetaGradient):
        return value
    choices = (
        f"Use one of {sorted(_BY_NAME)}, or an object such as "
        'keras_meta.Unrolled(checkpoint="sqrt").'
    )
    if isinstance(value, type) or not isinstance(value, str):
        raise TypeError(
            "`meta_gradient` must be a keras_meta.MetaGradient or a name. "
            f"Received: meta_gradient={describe(value)}. {choices}"
        )
    if value not in _BY_NAME:
        raise ValueError(
            "`meta_gradient` must be a known name. Received: "
            f"meta_gradient={value!r}. {choices}"
        )
    return _BY_NAME[value]()
