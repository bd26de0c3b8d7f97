"""The task `schedule` of `experiments.bilevel`: its flags and its output."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from absl import flags

from experiments import results
from experiments import run_folder
from experiments import schedule_figures
from experiments import schedule_run
from experiments.plotting import name_of
from experiments.schedule_run import Settings
from keras_meta import durable_files

_TOY_METHODS = ("truncated", "pes")

_TOY_META_STEPS = flags.DEFINE_integer(
    "toy_meta_steps",
    2000,
    "Schedule: meta-steps on the toy problem.",
    lower_bound=1,
)
_TOY_PARTICLES = flags.DEFINE_integer(
    "toy_particles",
    100,
    "Schedule: pairs of particles on the toy problem.",
    lower_bound=1,
)
_METHOD = flags.DEFINE_multi_enum(
    "schedule_method",
    list(schedule_run.METHODS),
    list(schedule_run.METHODS),
    "Schedule: what to compare on MNIST; may be given several times.",
)
_STEPS = flags.DEFINE_integer(
    "schedule_steps",
    500,
    "Schedule: steps of a training on MNIST, a multiple of the window.",
    lower_bound=1,
)
_WINDOW = flags.DEFINE_integer(
    "schedule_window", 10, "Schedule: steps of a window.", lower_bound=1
)
_RATE = flags.DEFINE_float(
    "schedule_rate", 0.01, "Schedule: the rate to begin with."
)
_BATCH_SIZE = flags.DEFINE_integer(
    "schedule_batch_size", 8, "Schedule: images of a step.", lower_bound=1
)
_SECONDS = flags.DEFINE_float(
    "schedule_seconds",
    40.0,
    "Schedule: CPU seconds of one thread for each method and seed on MNIST.",
    lower_bound=0.0,
)
_META_RATE = flags.DEFINE_float(
    "schedule_meta_rate", 0.03, "Schedule: rate of Adam on MNIST."
)
_PARTICLES = flags.DEFINE_integer(
    "schedule_particles",
    8,
    "Schedule: pairs of particles on MNIST.",
    lower_bound=1,
)
_SIGMA = flags.DEFINE_float(
    "schedule_sigma",
    0.1,
    "Schedule: standard deviation of perturbations on MNIST.",
)
_SEEDS = flags.DEFINE_integer(
    "schedule_seeds", 2, "Schedule: repetitions on MNIST.", lower_bound=1
)
_TEST_RUNS = flags.DEFINE_integer(
    "schedule_test_runs",
    4,
    "Schedule: trainings on MNIST in a test.",
    lower_bound=1,
)


def main(output: pathlib.Path, data_dir: str | None, figures: bool) -> None:
    """Learns schedules, and prints and draws them.

    What was stopped continues after the last method that finished.

    Args:
        output: Folder of the record and the figure.
        data_dir: Folder of the prepared data sets.
        figures: Whether to draw the figure.
    """
    settings = _settings()
    methods = list(dict.fromkeys(_METHOD.value))
    print(
        "Learning schedules of learning rates. The record and the figure go "
        f"to {output}.",
        flush=True,
    )
    with run_folder.owned(output), _process() as process:
        measured = functools.partial(_measured, process, settings)
        toy = {}
        for method in _TOY_METHODS:
            toy[method] = measured(
                output / f"toy_{method}.json", _toy, method, settings
            )
            _print_toy(method, toy[method])
        first = measured(output / "first.json", _first, settings, data_dir)
        mnist = {method: [] for method in methods}
        for seed in range(settings.seeds):
            for method in methods:
                record = measured(
                    output / f"{method}_{seed}.json",
                    _mnist,
                    method,
                    settings,
                    seed,
                    data_dir,
                )
                mnist[method].append(record)
                _print_mnist(f"{name_of(method)}, seed {seed}", record)
        _print_mnist("the rate to begin with", first)
        results.write(
            output,
            settings,
            {"toy": toy, "mnist": mnist, "first": first},
            iterations=settings.toy_meta_steps,
            seconds=settings.seconds * settings.seeds * len(methods),
        )
        if figures:
            schedule_figures.draw(
                toy, mnist, first, settings, output / "schedule"
            )


def _settings() -> Settings:
    return Settings(
        toy_steps=100,
        toy_window=10,
        toy_meta_steps=_TOY_META_STEPS.value,
        toy_log_rate=-4.0,
        toy_meta_rate=0.01,
        toy_particles=_TOY_PARTICLES.value,
        toy_sigma=0.3,
        steps=_STEPS.value,
        window=_WINDOW.value,
        rate=_RATE.value,
        batch_size=_BATCH_SIZE.value,
        units=32,
        seconds=_SECONDS.value,
        meta_rate=_META_RATE.value,
        particles=_PARTICLES.value,
        sigma=_SIGMA.value,
        test_runs=_TEST_RUNS.value,
        seeds=_SEEDS.value,
    )


def _process() -> concurrent.futures.ProcessPoolExecutor:
    """Returns a process in which nothing else runs."""
    return concurrent.futures.ProcessPoolExecutor(
        1,
        # A forked process cannot use TensorFlow.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_use_one_thread,
    )


def _measured(
    process: concurrent.futures.Executor,
    settings: Settings,
    path: pathlib.Path,
    measure: Callable,
    *arguments: Any,
) -> dict[str, Any]:
    """Returns what is measured, from a file if it was there before."""
    record = run_folder.read_json(path, "it is measured again")
    if record is not None:
        run_folder.check_settings(
            path,
            record["settings"],
            settings,
            run_folder.start_afresh(path.parent),
            may_differ=["seeds"],
        )
        return record
    record = {
        "settings": dataclasses.asdict(settings),
        **process.submit(measure, *arguments).result(),
    }
    durable_files.write_json(path, record)
    return record


def _toy(method: str, settings: Settings) -> dict[str, Any]:
    learned = schedule_run.learn_toy(method, settings)
    return {"path": learned.path.tolist(), "loss": learned.loss}


def _first(settings: Settings, data_dir: str | None) -> dict[str, Any]:
    data = schedule_run.load(data_dir)
    log_rates = np.full([2], np.log(settings.rate))
    losses = schedule_run.tested(log_rates, data, settings)
    return {
        "log_rates": log_rates.tolist(),
        "losses": losses.tolist(),
        "meta_steps": 0,
    }


def _mnist(
    method: str, settings: Settings, seed: int, data_dir: str | None
) -> dict[str, Any]:
    data = schedule_run.load(data_dir)
    learned = schedule_run.learn(method, data, settings, seed)
    return {
        "log_rates": learned.log_rates.tolist(),
        "losses": learned.losses.tolist(),
        "meta_steps": learned.meta_steps,
    }


def _use_one_thread() -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def _print_toy(method: str, record: dict[str, Any]) -> None:
    first, last = record["path"][-1]
    print(
        f"Toy problem, {name_of(method)}: log-rates {first:.2f} and "
        f"{last:.2f}, mean loss {record['loss']:.2f}",
        flush=True,
    )


def _print_mnist(name: str, record: dict[str, Any]) -> None:
    first, last = np.exp(record["log_rates"])
    losses = record["losses"]
    print(
        f"MNIST, {name}: {record['meta_steps']} meta-steps, rates {first:.4f} "
        f"to {last:.4f}; validation loss {np.mean(losses):.3f} in the mean, "
        f"{losses[-1]:.3f} at the end",
        flush=True,
    )
