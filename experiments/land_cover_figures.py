"""A picture of a task of land cover."""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf

from experiments import plotting
from keras_meta.learners.learner import Learner

_QUERIES = 10
_RIGHT, _WRONG = "#009E73", "#D55E00"


def draw_task(
    learner: Learner, episodes: tf.data.Dataset, task: int, path: pathlib.Path
) -> None:
    """Draws queries of a task, with predictions before and after adaptation.

    Args:
        learner: The learner, compiled.
        episodes: Batches of tasks.
        task: Number of the task.
        path: Path of the figure, without a suffix.
    """
    x, y = next(iter(episodes.unbatch().batch(1).skip(task)))
    found = tf.argmax(learner.trajectory(x), axis=-1)[:, 0].numpy()
    # In the same order, whatever the order of classes.
    chosen = np.random.default_rng(0).permutation(y.shape[1])[:_QUERIES]
    images = x["query_x"].numpy()[0, chosen]
    truth = y.numpy()[0, chosen]
    examples = _first_of_each(x["support_x"].numpy()[0], x["support_y"][0])
    with plotting.saved_figure(path, 3, _QUERIES, size=(0.7, 0.8)) as (
        _,
        panels,
    ):
        for panel in panels.ravel():
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
        for label, image in enumerate(examples[:_QUERIES]):
            panels[0, label].imshow(image)
            panels[0, label].set_title(f"class {label}", fontsize=6)
        for row, step in ((1, 0), (2, -1)):
            for i, image in enumerate(images):
                guess = found[step, chosen[i]]
                color = _RIGHT if guess == truth[i] else _WRONG
                panel = panels[row, i]
                panel.imshow(image)
                panel.spines[:].set(visible=True, color=color, linewidth=2)
                panel.set_xlabel(f"{guess}", fontsize=6, color=color)
        for row, title in enumerate(("support", "before", "after")):
            panels[row, 0].set_ylabel(title)


def _first_of_each(images: np.ndarray, labels: tf.Tensor) -> list[np.ndarray]:
    """Returns an image of each class."""
    labels = labels.numpy()
    return [images[labels == label][0] for label in np.unique(labels)]
