"""The task `distillation` of `experiments.bilevel`."""

from __future__ import annotations

import pathlib

import numpy as np
from absl import flags

from experiments import bilevel_figures
from experiments import distillation_run
from experiments import results
from experiments import run_folder
from experiments.distillation_run import Settings

# What the flags of the task default to, for each start.
_DEFAULTS = {
    "initial": {"steps": 1, "epochs": 3, "starts": 1, "first_images": "noise"},
    "drawn": {"steps": 10, "epochs": 3, "starts": 2, "first_images": "real"},
}

_NETWORK = flags.DEFINE_enum(
    "distill_network",
    "lenet",
    distillation_run.NETWORKS,
    "Network that trains on the images: LeNet, or its dense layers alone.",
)
_START = flags.DEFINE_enum(
    "distill_start",
    "initial",
    list(_DEFAULTS),
    "Initial weights that the images are for: one, or any.",
)
_STEPS = flags.DEFINE_integer(
    "distill_steps",
    None,
    "Training steps, each on 10 images of its own; by default 1, and 10 for "
    "any initial weights.",
    lower_bound=1,
)
_EPOCHS = flags.DEFINE_integer(
    "distill_epochs",
    None,
    "How often training goes through the images; 3 by default.",
    lower_bound=1,
)
_STARTS = flags.DEFINE_integer(
    "distill_starts",
    None,
    "Initial weights that a meta-step draws; 2 by default.",
    lower_bound=1,
)
_FIRST_IMAGES = flags.DEFINE_enum(
    "distill_first_images",
    None,
    ["noise", "real"],
    "Where images begin; noise by default, and real ones for any initial "
    "weights.",
)
_LABELS = flags.DEFINE_bool(
    "distill_labels", False, "Whether the labels of images are learned too."
)
_META_STEPS = flags.DEFINE_integer(
    "distill_meta_steps", 600, "Updates of the images.", lower_bound=1
)
_META_RATE = flags.DEFINE_float(
    "distill_meta_rate", 0.01, "Rate of Adam for images and rates."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "distill_batch_size", 1024, "Real images of a meta-step.", lower_bound=1
)
_RATE = flags.DEFINE_float(
    "distill_rate", 0.02, "First rate of the training steps.", lower_bound=1e-6
)
_RATE_STEPS = flags.DEFINE_integer(
    "distill_rate_steps",
    60,
    "Updates of the rates for real images.",
    lower_bound=1,
)
_DRAWS = flags.DEFINE_integer(
    "distill_draws", 4, "Draws of real images.", lower_bound=1
)
_INITIALIZATIONS = flags.DEFINE_integer(
    "distill_initializations",
    200,
    "New initial weights that the images are tested with.",
    lower_bound=1,
)


def run(
    output: pathlib.Path, data_dir: str | None, seed: int, figures: bool
) -> None:
    """Learns the images, tests them and writes the record.

    Args:
        output: Folder of the run.
        data_dir: Folder of the prepared data sets.
        seed: Seed of the run.
        figures: Whether to draw the images.
    """
    settings = _settings(seed)
    with run_folder.owned(output):
        found = distillation_run.run(
            distillation_run.load(data_dir), settings, output
        )
        np.savez(output / "distilled.npz", **found.distilled._asdict())
        rows = {
            "distilled images": found.accuracies,
            "the same, in plain Keras": found.plain_accuracies,
            "random real images": found.real,
        }
        results.write(
            output,
            settings,
            {
                "test_accuracy": {k: v.tolist() for k, v in rows.items()},
                "learning_rates": found.distilled.learning_rates.tolist(),
                "history": found.progress.history,
            },
            iterations=found.progress.iterations,
            seconds=found.progress.seconds,
        )
        if figures:
            bilevel_figures.draw_distilled(
                found.distilled, output / "distillation"
            )
    print(f"\n{'trained on':<28}test accuracy, %: mean, deviation, models")
    for name, values in rows.items():
        print(f"{name:<28}{values.mean():.2f} {values.std():.2f} {len(values)}")
    print(f"\n{found.progress.seconds:.0f} s to learn the images.")


def _settings(seed: int) -> Settings:
    defaults = _DEFAULTS[_START.value]
    given = {
        "steps": _STEPS.value,
        "epochs": _EPOCHS.value,
        "starts": _STARTS.value,
        "first_images": _FIRST_IMAGES.value,
    }
    return Settings(
        network=_NETWORK.value,
        start=_START.value,
        meta_steps=_META_STEPS.value,
        meta_rate=_META_RATE.value,
        batch_size=_BATCH_SIZE.value,
        rate=_RATE.value,
        rate_steps=_RATE_STEPS.value,
        draws=_DRAWS.value,
        initializations=_INITIALIZATIONS.value,
        seed=seed,
        learned_labels=_LABELS.value,
        **{k: defaults[k] if v is None else v for k, v in given.items()},
    )
