"""Figures of learned optimizers."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np

from experiments import plotting

# Curves with at least twice as many points are averaged down.
_POINTS = 250


def draw_losses(
    curves: Mapping[str, np.ndarray],
    path: pathlib.Path,
    *,
    trained_steps: int | None,
) -> None:
    """Draws the loss against the step, mean and 95 % interval.

    In long runs, neighbouring steps are averaged, so that minibatch noise does
    not hide the differences between optimizers.

    Args:
        curves: Losses, `[instances, steps + 1]`, by the optimizer's name. The
            first is drawn over the others.
        path: Path of the figure, without a suffix.
        trained_steps: Number of steps that the learned optimizer was trained
            for, to mark it in the figure, or None.
    """
    with plotting.saved_figure(path, size=(4.2, 3.0)) as (_, panels):
        panel = panels[0, 0]
        for name, every_loss in reversed(curves.items()):
            at, losses = thinned(every_loss)
            mean = losses.mean(axis=0)
            half = 1.96 * losses.std(axis=0, ddof=1) / len(losses) ** 0.5
            plotting.draw_band(panel, at, mean, half, name)
        steps = every_loss.shape[1] - 1
        if trained_steps is not None and steps > trained_steps:
            panel.axvline(
                trained_steps,
                color="black",
                linewidth=0.6,
                ls=":",
                label="trained up to here",
            )
        label = f"loss, mean of {len(losses)} and 95 % band"
        averaged = round(at[1] - at[0])
        points = f", averaged over {averaged} steps" if averaged > 1 else ""
        panel.set(xlabel=f"step{points}", ylabel=label, yscale="log")
        panel.legend(reverse=True)


def thinned(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Averages neighbouring steps, so that a curve has fewer than 500 points.

    Args:
        losses: `[instances, steps]`.

    Returns:
        The mean step of each point, `[points]`, and the mean losses,
        `[instances, points]`. Remaining steps at the end are dropped.
    """
    averaged = max(1, losses.shape[1] // _POINTS)
    points = losses.shape[1] // averaged
    kept = losses[:, : points * averaged]
    at = averaged * np.arange(points) + (averaged - 1) / 2
    return at, kept.reshape([-1, points, averaged]).mean(axis=-1)
