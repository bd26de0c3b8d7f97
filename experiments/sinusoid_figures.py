"""Figures of sinusoid regression."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from experiments import plotting
from experiments import sinusoid_run
from experiments.sinusoid_run import Settings
from keras_meta.evaluation import Curve
from keras_meta.evaluation import adaptation_curve
from keras_meta.learners.learner import Learner

_GRID_POINTS = 201
_SHOWN_TASKS = 2
_STEP_STYLES = {0: ":", 1: "--", 10: "-"}


def draw_adaptation(
    learners: Mapping[str, tuple[Settings, Learner]],
    shots: int,
    path: pathlib.Path,
) -> None:
    """Draws predictions before and after gradient steps on test tasks.

    Args:
        learners: Settings and trained learner of each algorithm.
        shots: Number of support points.
        path: Path of the figure, without a suffix.
    """
    with plotting.saved_figure(
        path, _SHOWN_TASKS, len(learners), sharex=True, sharey="row"
    ) as (figure, panels):
        for column, (algorithm, (settings, learner)) in zip(
            panels.T, learners.items(), strict=True
        ):
            column[0].set_title(plotting.name_of(algorithm))
            column[-1].set_xlabel("x")
            for task, panel in enumerate(column):
                _draw_task(panel, settings, learner, shots, task)
        for row in panels:
            row[0].set_ylabel("y")
        figure.legend(
            *panels[0, 0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=5,
        )


def _draw_task(
    panel, settings: Settings, learner: Learner, shots: int, task: int
):
    family = sinusoid_run.family_of(settings.family)
    seed = sinusoid_run.test_seed(settings)
    x, _ = family.draw(seed, task, tasks=1, shots=shots, queries=1)
    grid = tf.linspace(*family.x, _GRID_POINTS)[tf.newaxis, :, tf.newaxis]
    steps = max(_STEP_STYLES)
    fits = learner.trajectory({**x, "query_x": grid}, steps).numpy()
    truth = family.evaluate(family.parameters(seed, task, 1), grid)
    xs, ys = grid.numpy().ravel(), truth.numpy().ravel()
    panel.plot(xs, ys, color="black", alpha=0.2, linewidth=4, label="truth")
    for step, style in _STEP_STYLES.items():
        panel.plot(
            xs,
            fits[step].ravel(),
            style,
            color=plotting.color_of(settings.algorithm),
            label=_step_label(step),
        )
    panel.plot(
        x["support_x"].numpy().ravel(),
        x["support_y"].numpy().ravel(),
        "^",
        color="black",
        markersize=4,
        label="support",
    )
    margin = np.abs(ys).max()
    panel.set_ylim(ys.min() - margin, ys.max() + margin)


def _step_label(step: int) -> str:
    if step == 0:
        return "before"
    return f"after {step} step" + ("s" if step > 1 else "")


def draw_curves(
    learners: Mapping[str, tuple[Settings, Learner]],
    shots: int,
    steps: int,
    path: pathlib.Path,
) -> dict[str, Curve]:
    """Draws the error against the number of gradient steps.

    Args:
        learners: Settings and trained learner of each algorithm.
        shots: Number of support points.
        steps: Number of gradient steps.
        path: Path of the figure, without a suffix. A curve ends where the
            learner diverges.

    Returns:
        The curve of each algorithm.
    """
    curves = {
        algorithm: adaptation_curve(
            learner,
            sinusoid_run.test_episodes(settings, shots),
            settings.test_tasks,
            steps,
        )["loss"]
        for algorithm, (settings, learner) in learners.items()
    }
    with plotting.saved_figure(path, size=(4.4, 3.0)) as (figure, panels):
        panel = panels[0, 0]
        for algorithm, curve in curves.items():
            end = _end(curve)
            plotting.draw_band(
                panel,
                np.arange(end),
                curve.mean[:end],
                curve.half_width[:end],
                algorithm,
                label=plotting.name_of(algorithm)
                + _divergence_note(curve, end),
            )
        panel.set_xlabel("gradient steps")
        panel.set_ylabel(f"mean squared error, {shots} shots")
        panel.set_ylim(bottom=0)
        figure.legend(loc="outside right center")
    return curves


def _divergence_note(curve: Curve, end: int) -> str:
    return f",\ndiverges after {end - 1}" if end < len(curve.mean) else ""


def _end(curve: Curve) -> int:
    """Returns how many points to draw.

    A learner trained with one step may diverge on some tasks when it takes
    many. Its curve ends before the mean becomes meaningless.
    """
    said = curve.half_width < 0.5 * curve.mean
    return len(said) if said.all() else int(np.argmin(said))
