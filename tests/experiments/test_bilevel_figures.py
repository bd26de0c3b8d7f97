"""Figures of learned data."""

import numpy as np

from experiments import bilevel_figures
from keras_meta.outer.distilled import Distilled


def test_a_learned_label_is_named_by_its_highest_score(tmp_path):
    rng = np.random.default_rng(0)
    images, rates = rng.normal(size=[2, 3, 8, 8, 1]), np.ones([1, 2])
    scores = rng.normal(size=[2, 3, 3])
    scores[:, [0, 1, 2], [2, 0, 1]] = 9.0
    classes = np.tile([2, 0, 1], [2, 1])
    drawn = []
    for name, labels in (("scores", scores), ("classes", classes)):
        distilled = Distilled(images, labels, rates)
        bilevel_figures.draw_distilled(distilled, tmp_path / name)
        drawn.append((tmp_path / f"{name}.png").read_bytes())
    assert drawn[0] == drawn[1]
