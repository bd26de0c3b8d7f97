"""Figure of learned schedules."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import plotting
from experiments import schedule_run
from experiments.schedule_run import Settings

_GRID = np.linspace(-6, 6, 121)
_LEVELS = 24


def draw(
    toy: Mapping[str, Mapping[str, Any]],
    mnist: Mapping[str, Sequence[Mapping[str, Any]]],
    first: Mapping[str, Any],
    settings: Settings,
    path: pathlib.Path,
) -> None:
    """Draws paths on the toy problem, and schedules and losses on MNIST.

    Args:
        toy: What each method learned on the toy problem.
        mnist: What each learned on MNIST, from each seed.
        first: What the first schedule does on MNIST.
        settings: The settings.
        path: Where to, without a suffix.
    """
    with plotting.saved_figure(path, 1, 3) as (figure, panels):
        surface, rates, losses = panels[0]
        _draw_surface(surface, toy, settings)
        steps = np.arange(settings.steps)
        after = np.arange(1, len(first["losses"]) + 1) * settings.window
        rows = {
            "the first rate": ("#444444", [first]),
            **{
                plotting.name_of(method): (plotting.color_of(method), seeds)
                for method, seeds in mnist.items()
            },
        }
        for name, (color, seeds) in rows.items():
            for i, record in enumerate(seeds):
                begin, end = record["log_rates"]
                share = steps / max(settings.steps - 1, 1)
                label = None if i else name
                rate = np.exp((1 - share) * begin + share * end)
                rates.plot(steps, rate, color=color, label=label)
                losses.plot(after, record["losses"], color=color)
        rates.set_yscale("log")
        rates.set_xlabel("step of a training on MNIST")
        rates.set_ylabel("learned rate")
        losses.set_yscale("log")
        losses.set_xlabel("step of a training on MNIST")
        losses.set_ylabel("validation loss")
        figure.legend(
            *rates.get_legend_handles_labels(),
            loc="outside lower center",
            ncols=4,
        )


def _draw_surface(panel, toy, settings: Settings) -> None:
    grid = np.stack(np.meshgrid(_GRID, _GRID, indexing="ij"), axis=-1)
    values = schedule_run.toy_loss(grid, settings)
    # High rates at the end are worse by orders of magnitude.
    start = np.full([2], settings.toy_log_rate)
    top = 1.2 * schedule_run.toy_loss(start, settings)
    levels = np.linspace(np.nanmin(values), top, _LEVELS)
    panel.contourf(_GRID, _GRID, values.T, levels, cmap="Greys", extend="max")
    for method, record in toy.items():
        path = np.asarray(record["path"])
        color = plotting.color_of(method)
        panel.plot(path[:, 0], path[:, 1], color=color)
        panel.plot(*path[-1], "o", color=color)
    panel.set_xlabel("log-rate of the first step")
    panel.set_ylabel("log-rate of the last step")
    panel.grid(False)
