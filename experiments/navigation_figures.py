"""Figures of navigation in the plane."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import plotting
from experiments.navigation_run import Settings
from experiments.plotting import name_of
from keras_meta.reinforcement import Rollouts

# What paths are drawn for.
GOALS = np.array([[0.4, 0.3], [-0.4, 0.1], [0.1, -0.45]], "float32")
_OBJECTIVES = {
    "score_function": "score function",
    "likelihood_ratio": "likelihood ratio",
    "dice": "DiCE",
    "loaded_dice": "Loaded DiCE",
}
_STYLES = {
    "score_function": ":",
    "likelihood_ratio": "-",
    "dice": "-.",
    "loaded_dice": "--",
}
_PATHS = 3
# One for each goal.
_COLORS = ("#0072B2", "#D55E00", "#009E73")


def label_of(settings: Settings) -> str:
    """Returns the name of a run in tables and figures."""
    name = name_of(settings.algorithm)
    if settings.algorithm == "maml":
        return f"{name}, {_OBJECTIVES[settings.objective]}"
    return name


def draw_returns(
    records: Mapping[Settings, Mapping[str, Any]], path: pathlib.Path
) -> None:
    """Draws returns in training, and after updates in the test.

    Args:
        records: What `navigation_run.run` returned.
        path: Where to, without a suffix.
    """
    with plotting.saved_figure(path, 1, 2, size=(3.6, 3.0)) as (figure, panels):
        training, test = panels[0]
        for settings, record in records.items():
            label, style = label_of(settings), "-"
            if settings.algorithm == "maml":
                style = _STYLES[settings.objective]
            measured = record["measurements"]
            history = measured["history"]
            training.plot(
                [row["iterations"] for row in history],
                [row["adapted_return"] for row in history],
                style,
                marker="o" if len(history) == 1 else "",
                color=plotting.color_of(settings.algorithm),
            )
            mean = np.array(measured["returns"]["mean"])
            plotting.draw_band(
                test,
                np.arange(len(mean)),
                mean,
                np.array(measured["returns"]["half_width"]),
                settings.algorithm,
                label=label,
                style=style,
            )
        training.set_xlabel("iterations")
        training.set_ylabel("training return after an update")
        test.set_xlabel("updates")
        test.set_xticks(range(len(mean)))
        test.set_ylabel("return on new goals")
        figure.legend(
            *test.get_legend_handles_labels(),
            loc="outside lower center",
            ncols=2,
        )


def draw_paths(
    settings: Settings, rollouts: Sequence[Rollouts], path: pathlib.Path
) -> None:
    """Draws paths before and after adaptation.

    Args:
        settings: The settings of the run that they belong to.
        rollouts: Rollouts for `GOALS` after 0, 1, ... updates.
        path: Where to, without a suffix.
    """
    columns = len(rollouts)
    with plotting.saved_figure(path, 1, columns, size=(2.4, 2.6)) as (
        figure,
        panels,
    ):
        for step, seen in enumerate(rollouts):
            panel = panels[0, step]
            for goal, color in enumerate(_COLORS):
                _draw_goal(panel, seen, goal, color)
            panel.set_xlim(-0.8, 0.8)
            panel.set_ylim(-0.8, 0.8)
            panel.set_aspect("equal")
            panel.set_title(f"{step} update{'' if step == 1 else 's'}")
        figure.suptitle(label_of(settings), fontsize=9)


def _draw_goal(panel, seen: Rollouts, goal: int, color: str) -> None:
    """Draws some paths to a goal."""
    for rollout in range(min(_PATHS, seen.rewards.shape[1])):
        running = seen.running[goal, rollout].numpy()
        positions = seen.observations[goal, rollout].numpy()[running]
        panel.plot(*positions.T, color=color, linewidth=0.7, alpha=0.8)
    panel.plot(*GOALS[goal], "*", color=color, markersize=9, zorder=3)
