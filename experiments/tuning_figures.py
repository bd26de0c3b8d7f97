"""Figure of tuning by several methods."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from experiments import plotting
from experiments import tuning_run
from experiments.tuning_run import Point

_TIMES = 400
# How far above the best loss the panels reach.
_HEADROOM = 0.3


def draw_losses(
    curves: Mapping[str, Sequence[Sequence[Point]]],
    seconds: float,
    path: pathlib.Path,
) -> None:
    """Draws losses of the best model so far against time.

    Lines are medians over seeds, bands go from the least to the largest.

    Args:
        curves: What each method found from each seed.
        seconds: Time of a method.
        path: Where to, without a suffix.
    """
    times = np.linspace(0, seconds, _TIMES)
    with plotting.saved_figure(path, 1, 2) as (_, panels):
        for panel, (name, index) in zip(
            panels[0], [("validation", 2), ("test", 3)], strict=True
        ):
            lowest = np.inf
            for method, seeds in curves.items():
                losses = np.array(
                    [tuning_run.at_times(p, times)[:, index] for p in seeds]
                )
                color = plotting.color_of(method)
                panel.plot(
                    times,
                    np.median(losses, axis=0),
                    color=color,
                    label=plotting.name_of(method),
                )
                panel.fill_between(
                    times,
                    losses.min(axis=0),
                    losses.max(axis=0),
                    color=color,
                    alpha=0.2,
                    linewidth=0,
                )
                lowest = min(lowest, np.nanmin(losses))
            panel.set_ylim(lowest - 0.02, lowest + _HEADROOM)
            panel.set_xlabel("CPU seconds")
            panel.set_ylabel(f"{name} loss of the best model")
        panels[0, 0].legend()
