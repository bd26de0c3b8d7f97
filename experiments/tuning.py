"""The task `tuning` of `experiments.bilevel`: its flags and its output."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from absl import app
from absl import flags

from experiments import results
from experiments import run_folder
from experiments import tuning_figures
from experiments import tuning_run
from experiments.plotting import name_of
from experiments.tuning_run import Choice
from experiments.tuning_run import Point
from experiments.tuning_run import Settings
from experiments.tuning_run import Tuned
from keras_meta import durable_files

_METHOD = flags.DEFINE_multi_enum(
    "tuning_method",
    list(tuning_run.METHODS),
    list(tuning_run.METHODS),
    "Tuning: what to compare; may be given several times.",
)
_SECONDS = flags.DEFINE_float(
    "tuning_seconds",
    120.0,
    "Tuning: CPU seconds of one thread for each method and seed.",
    lower_bound=0.0,
)
_SEEDS = flags.DEFINE_integer(
    "tuning_seeds", 2, "Tuning: repetitions.", lower_bound=1
)
_TRAINING = flags.DEFINE_integer(
    "tuning_training", 4000, "Tuning: training examples.", lower_bound=1
)
_VALIDATION = flags.DEFINE_integer(
    "tuning_validation", 2000, "Tuning: validation examples.", lower_bound=1
)
_UNITS = flags.DEFINE_multi_integer(
    "tuning_units",
    [64, 32],
    "Tuning: units of a hidden layer; may be given several times.",
    lower_bound=1,
)
_STEPS = flags.DEFINE_integer(
    "tuning_steps", 400, "Tuning: steps of a training.", lower_bound=1
)
_BATCH_SIZE = flags.DEFINE_integer(
    "tuning_batch_size",
    100,
    "Tuning: examples of a training step.",
    lower_bound=1,
)
_META_RATE = flags.DEFINE_float(
    "tuning_meta_rate", 0.2, "Tuning: rate of Adam for hyperparameters."
)
_FINAL = flags.DEFINE_integer(
    "tuning_final_trainings",
    3,
    "Tuning: trainings with the hyperparameters found.",
    lower_bound=1,
)


def main(output: pathlib.Path, data_dir: str | None, figures: bool) -> None:
    """Compares the methods, and prints and draws what they find.

    A stopped comparison continues after the last method that finished.

    Args:
        output: Folder of the record and the figure.
        data_dir: Folder of the prepared data sets.
        figures: Whether to draw the figure.
    """
    settings, seeds = _settings(), range(_SEEDS.value)
    methods = list(dict.fromkeys(_METHOD.value))
    if settings.training % settings.batch_size or (
        settings.steps % (settings.training // settings.batch_size)
    ):
        raise app.UsageError(
            "--tuning_batch_size must divide --tuning_training, and a "
            "training must take whole epochs. Received: --tuning_batch_size="
            f"{settings.batch_size} --tuning_training={settings.training} "
            f"--tuning_steps={settings.steps}."
        )
    print(
        f"Tuning by {', '.join(map(name_of, methods))}: {len(seeds)} times "
        f"{settings.seconds:g} s of CPU time each. The record and the figure "
        f"go to {output}.",
        flush=True,
    )
    with run_folder.owned(output):
        records = {method: [] for method in methods}
        for seed in seeds:
            for method in methods:
                record = _measured(output, method, settings, seed, data_dir)
                records[method].append(record)
                _print_row(method, seed, record)
        results.write(
            output,
            settings,
            records,
            iterations=sum(
                r["trainings"] for rows in records.values() for r in rows
            ),
            seconds=sum(r["wall"] for rows in records.values() for r in rows),
        )
        if figures:
            curves = {
                method: [[Point(*p) for p in row["points"]] for row in rows]
                for method, rows in records.items()
            }
            tuning_figures.draw_losses(
                curves, settings.seconds, output / "tuning"
            )
        _print_summary(records, settings)


def _settings() -> Settings:
    return Settings(
        training=_TRAINING.value,
        validation=_VALIDATION.value,
        units=tuple(_UNITS.value),
        batch_size=_BATCH_SIZE.value,
        steps=_STEPS.value,
        seconds=_SECONDS.value,
        meta_rate=_META_RATE.value,
        final_trainings=_FINAL.value,
    )


def _measured(
    output: pathlib.Path,
    method: str,
    settings: Settings,
    seed: int,
    data_dir: str | None,
) -> dict[str, Any]:
    """Returns what a method finds, from a file if it was there before."""
    path = output / f"{method}_{seed}.json"
    record = run_folder.read_json(path, "the method runs again")
    if record is not None:
        run_folder.check_settings(
            path,
            record["settings"],
            settings,
            run_folder.start_afresh(output),
        )
        return record
    # Read by the libraries of Bayesian optimization where they are loaded.
    os.environ["OMP_NUM_THREADS"] = "1"
    with concurrent.futures.ProcessPoolExecutor(
        1,
        # A forked process cannot use TensorFlow.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_prepare_process,
    ) as pool:
        record = pool.submit(_measure, method, settings, seed, data_dir)
        record = {
            "settings": dataclasses.asdict(settings),
            **record.result(),
        }
    durable_files.write_json(path, record)
    return record


def _measure(
    method: str, settings: Settings, seed: int, data_dir: str | None
) -> dict[str, Any]:
    data = tuning_run.load(settings, seed, data_dir)
    tuned = tuning_run.tune(method, data, settings, seed)
    return {
        **_plain(tuned),
        "final": tuning_run.final_losses(tuned.choice, data, settings),
        "final_shared": tuning_run.final_losses(
            tuning_run.shared(tuned.choice), data, settings
        ),
    }


def _plain(tuned: Tuned) -> dict[str, Any]:
    choice: Choice = tuned.choice
    return {**tuned._asdict(), "choice": dataclasses.asdict(choice)}


def _prepare_process() -> None:
    # TensorFlow warns of models that are traced anew, as each trial's is.
    tf.get_logger().setLevel("ERROR")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def _print_row(method: str, seed: int, record: dict[str, Any]) -> None:
    best = Point(*record["points"][-1])
    print(
        f"{name_of(method):<24} seed {seed}: {record['trainings']} trainings, "
        f"the first after {record['first']:.1f} s; validation loss "
        f"{best.validation:.3f}, test loss {best.test:.3f}; "
        f"{record['wall']:.0f} s of wall time",
        flush=True,
    )


def _print_summary(
    records: dict[str, list[dict[str, Any]]], settings: Settings
) -> None:
    times = np.linspace(0, settings.seconds, 9)[1:]
    for name, index in (("validation", 2), ("test", 3)):
        print(f"\nMedian {name} loss of the best model after so many seconds:")
        print(f"{'':<24}" + "".join(f"{time:>8.0f}" for time in times))
        for method, rows in records.items():
            curves = [
                tuning_run.at_times([Point(*p) for p in row["points"]], times)
                for row in rows
            ]
            values = np.median([curve[:, index] for curve in curves], axis=0)
            print(f"{name_of(method):<24}" + _shown(values))
    print("\nTest loss of trainings from new weights, mean and range:")
    for method, rows in records.items():
        _print_final(name_of(method), rows, "final")
        if method == "gradient":
            _print_final("the same with one rate", rows, "final_shared")


def _print_final(name: str, rows: Sequence[dict[str, Any]], kind: str) -> None:
    tests = np.array([row[kind] for row in rows])[..., 1]
    print(
        f"{name:<24}{tests.mean():.3f} ({tests.min():.3f} to {tests.max():.3f})"
    )


def _shown(values: Sequence[float]) -> str:
    return "".join(f"{value:>8.3f}" for value in values)
