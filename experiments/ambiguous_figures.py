"""Figures of ambiguous regression."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np

from experiments import ambiguous_run
from experiments import plotting
from experiments.ambiguous_run import Settings
from keras_meta.learners.learner import Learner

_GRID_POINTS = 201
_SHOWN_TASKS = 2


def draw_samples(
    learners: Mapping[str, tuple[Settings, Learner]],
    seed: int,
    path: pathlib.Path,
) -> None:
    """Draws what learners make of ambiguous support sets.

    Args:
        learners: Settings and trained learner of each algorithm.
        seed: Seed of the support sets.
        path: Path of the figure, without a suffix.
    """
    family = ambiguous_run.FAMILY
    grid = np.linspace(*family.x, _GRID_POINTS, dtype="float32")[:, None]
    shots = next(iter(learners.values()))[0].shots
    x, y = ambiguous_run.ambiguous_tasks(_SHOWN_TASKS, shots, seed)
    queries = np.broadcast_to(grid, [_SHOWN_TASKS, *grid.shape])
    inputs = {"support_x": x, "support_y": y, "query_x": queries}
    with plotting.saved_figure(
        path, _SHOWN_TASKS, len(learners), sharex=True, sharey="row"
    ) as (_, panels):
        for column, (name, (_, learner)) in zip(
            panels.T, learners.items(), strict=True
        ):
            curves = ambiguous_run.samples_of(learner, inputs)
            column[0].set_title(plotting.name_of(name))
            column[-1].set_xlabel("x")
            for task, panel in enumerate(column):
                panel.plot(
                    grid[:, 0],
                    curves[task],
                    color=plotting.color_of(name),
                    alpha=0.5,
                )
                panel.plot(x[task], y[task], "^", color="black", markersize=4)
                panel.set_ylim(-6, 6)
        for row in panels:
            row[0].set_ylabel("y")
