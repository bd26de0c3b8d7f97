"""Figures of learned optimizers."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np

from experiments import plotting


def draw_losses(
    curves: Mapping[str, np.ndarray],
    path: pathlib.Path,
    *,
    trained_steps: int | None,
) -> None:
    """Draws the loss against the step, mean and 95 % interval.

    Args:
        curves: Losses, `[instances, steps + 1]`, by the optimizer's name.
        path: Where to, without a suffix.
        trained_steps: Steps that the learned optimizer was trained for, if
            they are to be marked.
    """
    with plotting.saved_figure(path, size=(4.2, 3.0)) as (_, panels):
        panel = panels[0, 0]
        for name, losses in curves.items():
            mean = losses.mean(axis=0)
            half = 1.96 * losses.std(axis=0, ddof=1) / len(losses) ** 0.5
            plotting.draw_band(panel, np.arange(len(mean)), mean, half, name)
        steps = len(mean) - 1
        if trained_steps is not None and steps > trained_steps:
            panel.axvline(
                trained_steps,
                color="black",
                linewidth=0.6,
                ls=":",
                label="trained until",
            )
        label = f"loss, mean of {len(losses)} and 95 % band"
        panel.set(xlabel="step", ylabel=label, yscale="log")
        panel.legend()
