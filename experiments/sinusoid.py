"""Sinusoid regression: few-shot learning of sine waves.

Trains learners on sine waves and tests them on new waves after a few gradient
steps. Prints errors (mean ± 95 % interval over tasks) beside the published
ones, and draws the effect of adaptation. A stopped run continues where it was.
A finished run is not repeated.

A first result and figures, within minutes on two cores:

  python -m experiments.sinusoid

Table 1 of the Meta-SGD paper with further algorithms, at full length:

  python -m experiments.sinusoid --table --jobs=2
"""

from __future__ import annotations

from experiments import binary

# isort: split
import concurrent.futures
import functools
import multiprocessing
import pathlib
import time
from collections.abc import Iterable
from typing import Any

import tensorflow as tf
from absl import app
from absl import flags

from experiments import implicit_flags
from experiments import published
from experiments import results
from experiments import sinusoid_figures
from experiments import sinusoid_run
from experiments.algorithms import HAS_PROXIMAL_TERM
from experiments.plotting import name_of
from experiments.sinusoid_run import Settings
from keras_meta import durable_files

_ALGORITHMS = (
    "maml",
    "meta_sgd",
    "fomaml",
    "implicit_maml",
    "proximal_maml",
    "anil",
    "reptile",
    "pretrained",
)
# Those with a proximal term take many inner steps, as long as all others.
_IN_TABLE = tuple(a for a in _ALGORITHMS if a not in HAS_PROXIMAL_TERM)
# Algorithms whose fits are drawn.
_SHOWN = ("maml", "meta_sgd", "pretrained")
_SHOTS = (5, 10, 20)
_PUBLISHED_ITERATIONS = 60_000
_CURVE_STEPS = 16

_ALGORITHM = flags.DEFINE_multi_enum(
    "algorithm",
    ["maml", "meta_sgd", "pretrained"],
    [*_ALGORITHMS, "all"],
    "What to train; may be repeated.",
)
_TABLE = flags.DEFINE_bool(
    "table",
    False,
    "Train all algorithms but implicit and proximal MAML, at all shots and at "
    "published length.",
)
_TRAIN_SHOTS = flags.DEFINE_multi_integer(
    "shots", [5], "Number of support and of query points in training."
)
_FAMILY = flags.DEFINE_enum(
    "family",
    "meta_sgd",
    ["maml", "meta_sgd", "reptile"],
    "Family of waves. Published numbers exist for meta_sgd.",
)
_ITERATIONS = flags.DEFINE_integer(
    "iterations",
    20_000,
    "Outer iterations; above 1000, a multiple of 1000.",
    lower_bound=1,
)
_META_BATCH = flags.DEFINE_integer(
    "meta_batch", 4, "Tasks in an outer iteration.", lower_bound=1
)
_STEPS = flags.DEFINE_integer(
    "steps",
    None,
    "Inner steps in training. Default: 1; Reptile: 5; implicit and proximal "
    "MAML: 16.",
)
_TEST_STEPS = flags.DEFINE_integer(
    "test_steps",
    None,
    "Inner steps in tests. Default: 1; Reptile: 10; implicit and proximal "
    "MAML: 16.",
)
_INNER_RATE = flags.DEFINE_float(
    "inner_rate",
    None,
    "Rate of the inner loop. Default: 0.01 (Reptile: rate of Adam); "
    "fine-tuning: 0.02; implicit and proximal MAML: 0.001; Meta-SGD: drawn "
    "from U[0.005, 0.1].",
)
implicit_flags.define(proximal=10.0, momentum=0.8)
_META_RATE = flags.DEFINE_float(
    "meta_rate",
    None,
    "Rate of the outer optimizer. Default: 0.001 (Adam); Reptile: 1 (SGD).",
)
_META_DECAY = flags.DEFINE_enum(
    "meta_decay",
    None,
    ["none", "linear", "cosine"],
    "Decay of the outer rate. Default: none; Reptile: linear.",
)
_HIDDEN = flags.DEFINE_multi_integer(
    "hidden", [40, 40], "Sizes of the hidden layers."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights and tasks.")
_TEST_TASKS = flags.DEFINE_integer(
    "test_tasks", 1000, "Tasks in each test.", lower_bound=2
)
_OUTPUT = flags.DEFINE_string(
    "output", "results/sinusoid", "Folder for records, weights and figures."
)
_JOBS = flags.DEFINE_integer(
    "jobs", 1, "Number of parallel runs, each on one core.", lower_bound=1
)
_FIGURES = flags.DEFINE_bool("figures", True, "Whether to draw figures.")


@flags.validator(
    "iterations", message="must be a multiple of 1000 if it exceeds 1000"
)
def _is_whole(iterations: int) -> bool:
    return iterations <= 1000 or iterations % 1000 == 0


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
    output = pathlib.Path(_OUTPUT.value)
    start = time.monotonic()
    # A run that is requested twice is run once.
    settings = list(
        dict.fromkeys(
            _settings(algorithm, shots)
            for algorithm in _chosen_algorithms()
            for shots in _chosen_shots()
        )
    )
    binary.announce(
        f"Training {_count(settings)} on sine waves for "
        f"{settings[0].iterations} iterations",
        output,
    )
    records = _run_all(settings, output)
    _print_table(records)
    if _FIGURES.value:
        _draw(settings, output)
    print(f"{time.monotonic() - start:.0f} s. Records in {output}.")


def _count(settings: list[Settings]) -> str:
    return "1 network" if len(settings) == 1 else f"{len(settings)} networks"


def _chosen_algorithms() -> Iterable[str]:
    if _TABLE.value:
        return _IN_TABLE
    if "all" in _ALGORITHM.value:
        return _ALGORITHMS
    return _ALGORITHM.value


def _chosen_shots() -> Iterable[int]:
    return _SHOTS if _TABLE.value else _TRAIN_SHOTS.value


def _settings(algorithm: str, shots: int) -> Settings:
    reptile = algorithm == "reptile"
    proximal = dict.fromkeys(HAS_PROXIMAL_TERM, 16)
    rates = {"meta_sgd": None, "pretrained": 0.02}
    rates |= dict.fromkeys(HAS_PROXIMAL_TERM, 0.001)
    steps = {"reptile": 5, **proximal}
    test_steps = {"reptile": 10, **proximal}
    return Settings(
        algorithm=algorithm,
        shots=shots,
        family=_FAMILY.value,
        iterations=(
            _PUBLISHED_ITERATIONS if _TABLE.value else _ITERATIONS.value
        ),
        meta_batch=_META_BATCH.value,
        steps=_or(_STEPS.value, steps.get(algorithm, 1)),
        test_steps=_or(_TEST_STEPS.value, test_steps.get(algorithm, 1)),
        inner_rate=_or(_INNER_RATE.value, rates.get(algorithm, 0.01)),
        meta_rate=_or(_META_RATE.value, 1.0 if reptile else 1e-3),
        meta_decay=_or(_META_DECAY.value, "linear" if reptile else "none"),
        hidden=tuple(_HIDDEN.value),
        seed=_SEED.value,
        test_tasks=_TEST_TASKS.value,
        test_shots=_SHOTS,
        implicit=implicit_flags.options(algorithm),
    )


def _or(value, default):
    return default if value is None else value


def _run_all(
    settings: list[Settings], output: pathlib.Path
) -> list[dict[str, Any]]:
    run = functools.partial(sinusoid_run.run, output=output)
    if _JOBS.value == 1:
        return [_announced(record) for record in map(run, settings)]
    with concurrent.futures.ProcessPoolExecutor(
        min(_JOBS.value, len(settings)),
        # A forked process cannot use TensorFlow.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_use_one_core,
    ) as pool:
        return [_announced(record) for record in pool.map(run, settings)]


def _use_one_core() -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(2)


def _announced(record: dict[str, Any]) -> dict[str, Any]:
    settings = record["settings"]
    print(
        f"{name_of(settings['algorithm'])}, {settings['shots']} shots: "
        f"{record['iterations']} iterations, trained in "
        f"{record['seconds']:.0f} s",
        flush=True,
    )
    return record


def _print_table(records: list[dict[str, Any]]) -> None:
    print("\nMean squared error, mean ± 95 % interval over test tasks")
    header = "".join(f"{f'{shots} shots':>36}" for shots in _SHOTS)
    print(f"{'trained on':<12}{'algorithm':<18}{'steps':>5}{header}")
    for record in sorted(records, key=lambda r: r["settings"]["shots"]):
        settings = record["settings"]
        cells = "".join(_cell(record, shots) for shots in _SHOTS)
        print(
            f"{settings['shots']:>2} shots    "
            f"{name_of(settings['algorithm']):<18}"
            f"{settings['test_steps']:>5}{cells}"
        )
    for record in records:
        arrival = results.arrival(record)
        if arrival:
            print(f"{name_of(record['settings']['algorithm'])}: {arrival}")
    print("In parentheses: the published error, and whether the measured one")
    print("is worse, better or the same (the intervals overlap).\n")


def _cell(record: dict[str, Any], shots: int) -> str:
    settings = record["settings"]
    measured = results.interval(record["measurements"][f"{shots}_shot_mse"])
    row = {}
    if settings["family"] == "meta_sgd":
        row = published.sinusoid_mse(settings["algorithm"], settings["shots"])
    text = f"{measured:.2f}"
    if shots in row:
        mark = published.compare(measured, row[shots], lower=True)
        text += f" ({row[shots]:.2f}, {mark})"
    return f"{text:>36}"


def _draw(settings: list[Settings], output: pathlib.Path) -> None:
    # Another process may be drawing here, but not for over an hour.
    durable_files.remove_unfinished(output, older_than=time.time() - 3600)
    shots = settings[0].shots
    learners = {
        s.algorithm: (s, sinusoid_run.load(s, output))
        for s in settings
        if s.shots == shots
    }
    shown = {a: x for a, x in learners.items() if a in _SHOWN} or learners
    sinusoid_figures.draw_adaptation(
        shown, shots, output / f"adaptation_{shots}shot"
    )
    sinusoid_figures.draw_curves(
        learners, shots, _CURVE_STEPS, output / f"curves_{shots}shot"
    )


if __name__ == "__main__":
    binary.run(main)
