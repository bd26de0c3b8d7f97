"""Another checkout of the repository as one more contender."""

import dataclasses
from collections.abc import Iterable

from absl import flags

from experiments.benchmarks.worker import Contender

_BEFORE = flags.DEFINE_string(
    "before",
    None,
    "Folder of another checkout, such as a worktree of the commit before. "
    "What this measures of keras_meta is measured from there too.",
)


def with_before(
    contenders: Iterable[Contender], names: Iterable[str]
) -> list[Contender]:
    """Adds the contenders of another checkout, if the flag names one.

    Args:
        contenders: The contenders.
        names: Names of those that compute with keras_meta.
    """
    contenders, names = list(contenders), set(names)
    if _BEFORE.value is None:
        return contenders
    return contenders + [
        dataclasses.replace(c, name=f"{c.name} before", checkout=_BEFORE.value)
        for c in contenders
        if c.name in names
    ]
