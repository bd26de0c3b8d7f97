"""Figures of few-shot classification."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from experiments import plotting

_SHOWN_CLASSES = 5
_SHOWN_QUERIES = 3


def draw_history(
    rows: Sequence[Mapping[str, float]],
    learner: str,
    label: str,
    path: pathlib.Path,
) -> None:
    """Draws the validation accuracy over iterations.

    Args:
        rows: The logs of each epoch.
        learner: Name of the learner, which determines the color.
        label: Its name in the legend.
        path: Path of the figure, without a suffix.
    """
    with plotting.saved_figure(path) as (_, panels):
        panel = panels[0, 0]
        plotting.draw_band(
            panel,
            np.array([row["iterations"] for row in rows]),
            100 * np.array([row["val_accuracy"] for row in rows]),
            100 * np.array([row["val_accuracy_interval"] for row in rows]),
            learner,
            label,
        )
        panel.set_xlabel("iterations")
        panel.set_ylabel("validation accuracy, %")
        panel.legend()


def draw_curve(
    curve: Mapping[str, Any], learner: str, label: str, path: pathlib.Path
) -> None:
    """Draws the test accuracy against the number of inner steps.

    Args:
        curve: A curve from the record of a run.
        learner: Name of the learner, which determines the color.
        label: Its name in the legend.
        path: Path of the figure, without a suffix.
    """
    mean = 100 * np.array(curve["mean"])
    with plotting.saved_figure(path) as (_, panels):
        panel = panels[0, 0]
        plotting.draw_band(
            panel,
            np.arange(len(mean)),
            mean,
            100 * np.array(curve["half_width"]),
            learner,
            label,
        )
        panel.set_xlabel("inner steps")
        panel.set_ylabel("test accuracy, %")
        panel.legend()


def draw_episode(
    x: Mapping[str, tf.Tensor], y: tf.Tensor, path: pathlib.Path
) -> None:
    """Draws support and query images of one task with their labels.

    Args:
        x: Inputs of one task: `support_x` `[n, height, width, channels]`,
            `support_y` `[n]` and `query_x` `[q, height, width, channels]`.
        y: Labels of the queries, `[q]`.
        path: Path of the figure, without a suffix.
    """
    support = _by_class(x["support_x"], x["support_y"], 1)
    query = _by_class(x["query_x"], y, _SHOWN_QUERIES)
    rows = [np.concatenate(pair) for pair in zip(support, query, strict=True)]
    with plotting.saved_figure(
        path, len(rows), len(rows[0]), size=(0.7, 0.75)
    ) as (_, panels):
        for label, (images, row) in enumerate(zip(rows, panels, strict=True)):
            for image, panel in zip(images, row, strict=True):
                # The color map is for images with one channel.
                panel.imshow(image, cmap="gray_r")
                panel.set(xticks=[], yticks=[])
                panel.spines[:].set(visible=True, linewidth=0.5)
            row[0].spines[:].set_linewidth(1.5)
            row[0].set_ylabel(f"class {label}")
        panels[0, 0].set_title("support")
        panels[0, 1].set_title("query")


def _by_class(images, labels, count: int) -> list[np.ndarray]:
    images, labels = np.asarray(images), np.asarray(labels)
    classes = np.unique(labels)[:_SHOWN_CLASSES]
    return [images[labels == label][:count] for label in classes]
