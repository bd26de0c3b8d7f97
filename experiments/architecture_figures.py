"""Figures of architecture search."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments import plotting
from experiments.architecture_run import ORDERS
from experiments.architecture_run import best
from experiments.architecture_run import random_networks

_COLORS = ("pretrained", "fomaml", "anil", "meta_sgd", "maml")
_LABELS = {order: f"derived, {order} order" for order in ORDERS}


def draw(measured: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
    """Draws how mixtures change, and what the networks are worth.

    Args:
        measured: What `architecture_run.run` returns.
        path: Where to, without a suffix.
    """
    with plotting.saved_figure(path, 1, 2) as (_, panels):
        mixture, accuracies = panels[0]
        _draw_shares(mixture, measured)
        _draw_accuracies(accuracies, measured)


def _draw_shares(panel, measured) -> None:
    """Draws the mean share of each operation in second-order searches."""
    shares = np.array(
        [
            [
                [[*edge.values()] for edge in edges.values()]
                for edges in repetition["searches"]["second"]["shares"]
            ]
            for repetition in measured
        ]
    )
    edges = measured[0]["searches"]["second"]["shares"][0]
    names = [*next(iter(edges.values()))]
    for i, (name, color) in enumerate(zip(names, _COLORS, strict=True)):
        # [seeds, epochs, edges]
        values = shares[..., i].mean(axis=2)
        panel.plot(
            values.mean(axis=0), label=name, color=plotting.color_of(color)
        )
    panel.set_xlabel("epoch of the search")
    panel.set_ylabel("mean share over edges")
    _add_legend(panel)


def _draw_accuracies(panel, measured) -> None:
    for seed, repetition in enumerate(measured):
        networks = repetition["networks"]
        for i, (order, label) in enumerate(_LABELS.items()):
            panel.plot(
                [seed + 1],
                [networks[order]["test_accuracy"]],
                "o" if i == 0 else "s",
                color=plotting.color_of("meta_sgd" if i == 0 else "maml"),
                label=None if seed else label,
            )
        others = random_networks(networks)
        tests = [network["test_accuracy"] for network in others]
        panel.plot(
            [seed + 1] * len(tests),
            tests,
            "_",
            markersize=14,
            color=plotting.color_of("pretrained"),
            label=None if seed else "random",
        )
        panel.plot(
            [seed + 1],
            [best(others)["test_accuracy"]],
            "D",
            markersize=9,
            fillstyle="none",
            color=plotting.color_of("pretrained"),
            label=None if seed else "best random",
        )
    panel.set_xticks(range(1, len(measured) + 1))
    panel.set_xlim(0.5, len(measured) + 0.5)
    panel.set_xlabel("repetition")
    panel.set_ylabel("test accuracy, %")
    _add_legend(panel)


def _add_legend(panel) -> None:
    """Adds a legend above a panel, where it hides nothing."""
    panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
