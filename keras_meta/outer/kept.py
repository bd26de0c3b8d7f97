"""Settings of runs that go on from one meta-step to the next."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from keras_meta.checks import check_positive


@keras.saving.register_keras_serializable("keras_meta")
@dataclasses.dataclass(frozen=True)
class Kept:
    """Keeps runs from one meta-step of an `OptimizerLearner` to the next.

    A meta-step takes one window of every run, and the next meta-step goes on
    where it ended. So the gradient of a meta-step is the mean over runs at
    different positions, early and late ones.

    The runs are kept in groups. All runs of a group are at the same position,
    and groups are staggered: with `W` windows a run, a group begins anew every
    `W` meta-steps, and group `g` does so `g * W // groups` meta-steps before
    group 0. First runs are shorter for that reason. A group that begins anew
    takes its part of the batch that the meta-step is given; the rest of the
    batch is not used. If `steps` of the learner changes, turns follow the new
    number, and a group that has taken as many steps begins anew.

    The runs are weights of the learner, so they are saved with it. They take
    the memory of `instances` times the parameters and the state of the rule,
    times two for each pair of particles of an evolution strategy. A meta-step
    takes the groups one after another: few large groups are faster, many
    small ones mix more positions.

    Args:
        instances: Number of runs, the size of each batch in `fit`.
        groups: Number of groups; it divides `instances`, and is at most the
            number of windows of a run.

    Raises:
        ValueError: If an argument is not positive, or `groups` does not
            divide `instances`.

    Example:
    >>> import keras_meta
    >>> learner = keras_meta.OptimizerLearner(
    ...     keras_meta.CoordinatewiseLSTM([4]),
    ...     keras_meta.problems.Quadratic(3),
    ...     steps=8,
    ...     meta_gradient=keras_meta.PersistentES(2, sigma=0.1, length=2),
    ...     start=keras_meta.Kept(6, groups=3),
    ... )
    >>> learner.compile("adam")
    >>> batches = keras_meta.problems.batches(6, num_batches=5)

    Then `learner.fit(batches)` takes five windows of each run.

    References:
        - [Vicol et al., 2021](https://arxiv.org/abs/2112.13835), section 4.
        - [Li et al., 2023](https://arxiv.org/abs/2304.12180), section 3, for
          runs at different positions.
    """

    instances: int
    groups: int = 4

    def __post_init__(self) -> None:
        check_positive(instances=self.instances, groups=self.groups)
        if self.instances % self.groups:
            raise ValueError(
                "`groups` must divide `instances`. Received: "
                f"instances={self.instances}, groups={self.groups}"
            )

    @property
    def group_size(self) -> int:
        """Runs of a group."""
        return self.instances // self.groups

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Kept:
        """Makes the settings from `get_config`'s dict."""
        return cls(**config)
