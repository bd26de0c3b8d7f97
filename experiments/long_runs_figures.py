"""Figure of meta-gradients on long runs."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np

from experiments import plotting
from experiments.estimators_figures import line_styles
from experiments.estimators_run import Estimator
from experiments.long_runs_run import Measured
from experiments.long_runs_run import Settings


def draw_losses(
    measured: Mapping[Estimator, Measured],
    settings: Settings,
    path: pathlib.Path,
) -> None:
    """Draws losses against time, and the peaks of memory beside.

    Lines are means over seeds, bands go from the least to the largest.

    Args:
        measured: What to draw.
        settings: Where it comes from.
        path: Where to, without a suffix.
    """
    seconds = np.linspace(0, settings.seconds, settings.points + 1)
    styles = line_styles(measured)
    names = [estimator.name for estimator in measured]
    with plotting.saved_figure(
        path, 1, 2, size=(3.6, 3.2), width_ratios=[3, 1]
    ) as (figure, panels):
        loss, memory = panels[0]
        for (estimator, result), style in zip(
            measured.items(), styles, strict=True
        ):
            low, high = result.losses.min(axis=0), result.losses.max(axis=0)
            color = plotting.color_of(estimator.method)
            mean = result.losses.mean(axis=0)
            loss.plot(seconds, mean, style, color=color, label=estimator.name)
            loss.fill_between(
                seconds, low, high, color=color, alpha=0.2, linewidth=0
            )
        loss.set_xlabel("CPU seconds of meta-training")
        loss.set_ylabel(f"mean loss over {settings.steps} steps")
        memory.barh(
            range(len(names)),
            [result.memory / 1e6 for result in measured.values()],
            color=[plotting.color_of(e.method) for e in measured],
        )
        memory.set_yticks([])
        memory.invert_yaxis()
        memory.set_xlabel("peak memory, MB")
        figure.legend(
            *loss.get_legend_handles_labels(),
            loc="outside lower center",
            ncols=2,
        )
