"""The task of `experiments.bilevel` that searches architectures."""

from __future__ import annotations

import pathlib

import numpy as np
from absl import flags

from experiments import architecture_figures
from experiments import architecture_run
from experiments import results
from experiments import run_folder
from experiments.architecture_run import Settings

_EXAMPLES = flags.DEFINE_integer(
    "search_examples",
    2000,
    "Architecture: examples for the weights of a search, as many for its "
    "architecture, and as many to choose among trained networks.",
    lower_bound=1,
)
_SEARCH_EPOCHS = flags.DEFINE_integer(
    "search_epochs", 6, "Architecture: epochs of a search.", lower_bound=1
)
_EPOCHS = flags.DEFINE_integer(
    "network_epochs",
    12,
    "Architecture: epochs of the training of a chosen network.",
    lower_bound=1,
)
_CHANNELS = flags.DEFINE_integer(
    "channels", 8, "Architecture: channels of a node.", lower_bound=1
)
_NODES = flags.DEFINE_integer(
    "nodes", 3, "Architecture: nodes of a cell.", lower_bound=1
)
_CELLS = flags.DEFINE_integer(
    "cells",
    1,
    "Architecture: cells; each begins by halving the images, of 14 x 14 "
    "pixels at first.",
    lower_bound=1,
    upper_bound=2,
)
_RANDOM = flags.DEFINE_integer(
    "random", 5, "Architecture: random ones for each seed.", lower_bound=1
)
_SEEDS = flags.DEFINE_integer(
    "seeds", 3, "Architecture: repetitions.", lower_bound=1
)


def run(output: pathlib.Path, data_dir: str | None, figures: bool) -> None:
    """Searches, trains what is found and random networks, and prints a table.

    Args:
        output: Folder of the records and the figure.
        data_dir: Folder of the prepared data sets.
        figures: Whether to draw the figure.
    """
    settings = _settings()
    with run_folder.owned(output):
        measured = architecture_run.run(
            settings,
            output / "parts",
            lambda seed: architecture_run.load(settings, seed, data_dir),
            lambda line: print(line, flush=True),
        )
        rows = architecture_run.table(measured)
        results.write(
            output,
            settings,
            {"repetitions": measured, "test_accuracy": rows},
            iterations=settings.search_epochs,
            seconds=sum(
                search["cpu_seconds"]
                for repetition in measured
                for search in repetition["searches"].values()
            ),
        )
        if figures:
            architecture_figures.draw(measured, output / "architecture")
    print(f"\n{'architecture':<26}{'mean test accuracy, %':<26}each seed")
    for name, values in rows.items():
        each = "  ".join(f"{value:.2f}" for value in values)
        print(f"{name:<26}{np.mean(values):<26.2f}{each}")


def _settings() -> Settings:
    return Settings(
        size=14,
        channels=_CHANNELS.value,
        nodes=_NODES.value,
        cells=_CELLS.value,
        examples=_EXAMPLES.value,
        batch_size=64,
        search_epochs=_SEARCH_EPOCHS.value,
        search_rate=0.025,
        architecture_rate=0.02,
        epochs=_EPOCHS.value,
        rate=0.1,
        random=_RANDOM.value,
        seeds=_SEEDS.value,
    )
