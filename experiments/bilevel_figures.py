"""Figures of what was learned of training."""

from __future__ import annotations

import pathlib

import numpy as np

from experiments import plotting
from experiments.cleaning_run import Cleaned
from keras_meta.outer.distilled import Distilled

_BINS = np.linspace(0, 1, 26)


def draw_cleaning(
    cleaned: Cleaned, is_wrong: np.ndarray, path: pathlib.Path
) -> None:
    """Draws the weights of examples, and how they tell wrong labels.

    Args:
        cleaned: What was learned.
        is_wrong: Which labels are wrong, `[n]`.
        path: Where to, without a suffix.
    """
    with plotting.saved_figure(path, 1, 2) as (_, panels):
        weights, scores = panels[0]
        weights.hist(
            [cleaned.weights[~is_wrong], cleaned.weights[is_wrong]],
            _BINS,
            stacked=True,
            color=[plotting.color_of("anil"), plotting.color_of("meta_sgd")],
            label=["right labels", "wrong labels"],
        )
        weights.set_xlabel("learned weight")
        weights.set_ylabel("training examples")
        weights.legend()
        epochs = np.arange(1, len(cleaned.history["f1"]) + 1)
        share = epochs / epochs[-1]
        for name, label in (
            ("f1", "F1 of wrong labels"),
            ("val_accuracy", "validation accuracy"),
        ):
            scores.plot(share, cleaned.history[name], label=label)
        scores.set_xlabel("fraction of the meta-steps")
        scores.legend()


def draw_distilled(distilled: Distilled, path: pathlib.Path) -> None:
    """Draws distilled images, one step of training in each row.

    Args:
        distilled: Images, `[steps, n, height, width, 1]`, and their labels:
            classes `[steps, n]` or, where they are learned too, scores
            `[steps, n, classes]`, of which the highest is named.
        path: Where to, without a suffix.
    """
    steps, count = distilled.y.shape[:2]
    labels = distilled.y
    if labels.ndim == 3:
        labels = labels.argmax(axis=-1)
    # The same gray means the same value in all images but the extreme ones.
    bound = np.quantile(np.abs(distilled.x), 0.995)
    with plotting.saved_figure(path, steps, count, size=(0.7, 0.75)) as (
        _,
        panels,
    ):
        for step, row in enumerate(panels):
            for i, panel in enumerate(row):
                panel.imshow(
                    distilled.x[step, i, ..., 0],
                    cmap="gray",
                    vmin=-bound,
                    vmax=bound,
                )
                panel.set_axis_off()
                if step == 0:
                    panel.set_title(str(labels[step, i]))
