"""Figure of the estimators of meta-gradients."""

from __future__ import annotations

import collections
import pathlib
from collections.abc import Iterable
from collections.abc import Mapping

import numpy as np

from experiments import influence_balancing
from experiments import plotting
from experiments.estimators_run import Estimator
from experiments.estimators_run import Measured
from experiments.estimators_run import Settings

_STYLES = ("-", "--", "-.", ":")
# Drawn over another line that they follow.
_DASHED = ("es", "nres")
_POINTS = 60


def draw_descents(
    measured: Mapping[Estimator, Measured],
    settings: Settings,
    path: pathlib.Path,
) -> None:
    """Draws the parameter and its gradient against meta-steps.

    Each point is the mean of neighbouring meta-steps; bands are standard
    deviations over seeds.

    Args:
        measured: What to draw.
        settings: Where it comes from.
        path: Where to, without a suffix.
    """
    end = influence_balancing.optimum()
    way = abs(settings.theta - end)
    steepest = abs(influence_balancing.gradient(settings.theta))
    with plotting.saved_figure(path, 1, 2, size=(3.6, 3.0)) as (figure, panels):
        parameter, gradient = panels[0]
        parameter.axhline(
            end,
            color="black",
            linewidth=0.8,
            linestyle=":",
            label=f"Optimum, ${end:.3f}$",
        )
        for (estimator, result), style in zip(
            measured.items(), line_styles(measured), strict=True
        ):
            _draw(parameter, result.descents.thetas, estimator, style)
            _draw(gradient, result.descents.gradients, estimator, style)
        # What diverges leaves the panels.
        parameter.set_ylim(end - 0.25 * way, settings.theta + way)
        parameter.set_ylabel("parameter θ")
        gradient.set_ylim(-1.5 * steepest, 2 * steepest)
        gradient.set_ylabel("gradient by θ")
        for panel in panels[0]:
            panel.set_xlabel("meta-steps")
        figure.legend(
            *parameter.get_legend_handles_labels(),
            loc="outside lower center",
            ncols=2,
        )


def line_styles(estimators: Iterable[Estimator]) -> list[str]:
    """Returns line styles that tell the windows of a method apart.

    Each method has a color of its own, see `plotting.color_of`.
    """
    styles, seen = [], collections.Counter(_DASHED)
    for estimator in estimators:
        styles.append(_STYLES[seen[estimator.method] % len(_STYLES)])
        seen[estimator.method] += 1
    return styles


def _draw(panel, values: np.ndarray, estimator: Estimator, style: str) -> None:
    x = _averaged(np.arange(1, values.shape[-1] + 1))
    values = _averaged(values)
    mean = values.mean(axis=0)
    if estimator.method == "exact":
        panel.plot(
            x,
            mean,
            color=plotting.color_of("exact"),
            alpha=0.2,
            linewidth=4,
            label=estimator.name,
        )
        return
    plotting.draw_band(
        panel,
        x,
        mean,
        values.std(axis=0),
        estimator.method,
        label=estimator.name,
        style=style,
    )


def _averaged(values: np.ndarray) -> np.ndarray:
    """Returns means of neighbouring values along the last axis."""
    parts = min(_POINTS, values.shape[-1])
    return np.stack(
        [x.mean(-1) for x in np.array_split(values, parts, axis=-1)], -1
    )
