"""A rule meta-trained on long runs, by several meta-gradients in turn.

The rule has a rate and a momentum for each tensor of a small network, which
takes 1000 steps on small minibatches. Truncated backpropagation, persistent
ES and noise-reuse ES train it on short windows, each for the same time.
Prints the mean loss of whole runs afterwards and the peak of memory, and draws
the loss against time.

The time is CPU time of one thread, so other load on the machine does not
matter; tracing and tests do not count. Each meta-gradient has a process of its
own, and the best of a few rates of Adam, by other problems than those of the
test. It takes about three minutes of CPU time, and always starts anew. It
needs Linux, which reports the memory:

  python -m experiments.long_runs
"""

from __future__ import annotations

from experiments import binary

# isort: split
import concurrent.futures
import functools
import multiprocessing
import pathlib
import time
from typing import Any

import tensorflow as tf
from absl import app
from absl import flags

from experiments import long_runs_figures
from experiments import long_runs_run
from experiments import optimizees
from experiments import results
from experiments import run_folder
from experiments.estimators_run import Estimator
from experiments.long_runs_run import Measured
from experiments.long_runs_run import Settings
from experiments.plotting import name_of

_METHODS = ("pes", "nres", "truncated")

_METHOD = flags.DEFINE_multi_enum(
    "method",
    list(_METHODS),
    list(_METHODS),
    "What to compare; may be given several times.",
)
_WINDOW = flags.DEFINE_multi_integer(
    "window",
    [10],
    "Steps of a window of truncated backpropagation; may be given several "
    "times.",
    lower_bound=1,
)
_ES_WINDOW = flags.DEFINE_multi_integer(
    "es_window",
    [10],
    "Steps of a window of evolution strategies; may be given several times.",
    lower_bound=1,
)
_PROBLEM = flags.DEFINE_enum(
    "problem", "mnist_noisy", optimizees.NAMES, "Family to train and test on."
)
_STEPS = flags.DEFINE_integer(
    "steps", 1000, "Steps of a run, a multiple of all windows.", lower_bound=1
)
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", 0.01, "Rate that the rule begins with."
)
_SECONDS = flags.DEFINE_float(
    "seconds", 4.0, "CPU seconds of a training.", lower_bound=0.0
)
_POINTS = flags.DEFINE_integer(
    "points", 6, "Tests of the rule during a training.", lower_bound=1
)
_META_RATE = flags.DEFINE_multi_float(
    "meta_rate",
    [0.03, 0.1],
    "Rate of Adam to choose from; may be given several times.",
)
_SEEDS = flags.DEFINE_integer(
    "seeds", 2, "Trainings with the best rate.", lower_bound=1
)
_RUNS = flags.DEFINE_integer("runs", 4, "Runs in a meta-step.", lower_bound=1)
_GROUPS = flags.DEFINE_integer(
    "groups",
    4,
    "Groups of runs at staggered positions, which are kept from meta-step to "
    "meta-step; divides --runs. Runs of fewer windows are drawn anew each "
    "time.",
    lower_bound=1,
)
_PARTICLES = flags.DEFINE_integer(
    "particles", 8, "Pairs of particles for each run.", lower_bound=1
)
_SIGMA = flags.DEFINE_float(
    "sigma", 0.1, "Standard deviation of their perturbations."
)
_TEST_RUNS = flags.DEFINE_integer(
    "test_runs", 16, "Runs in a test.", lower_bound=1
)
_JOBS = flags.DEFINE_integer(
    "jobs", 1, "Number of parallel trainings.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
    "output", "results/long_runs", "Folder of the record and the figure."
)
_FIGURES = flags.DEFINE_bool("figures", True, "Whether to draw the figure.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
    settings, estimators = _settings(), _estimators()
    _check(settings, estimators)
    output = pathlib.Path(_OUTPUT.value)
    start = time.monotonic()
    trainings = len(settings.meta_rates) + settings.seeds
    print(
        f"Meta-training on {settings.problem} by {len(estimators)} "
        f"meta-gradients, {trainings} times {settings.seconds:g} s each. The "
        f"record and the figure go to {output}.",
        flush=True,
    )
    with run_folder.owned(output):
        measured = _measure(estimators, settings)
        seconds = time.monotonic() - start
        results.write(
            output,
            settings,
            {e.name: _summary(m) for e, m in measured.items()},
            iterations=sum(
                int(m.meta_steps[:, -1].sum()) for m in measured.values()
            ),
            seconds=seconds,
        )
        if _FIGURES.value:
            long_runs_figures.draw_losses(
                measured, settings, output / "long_runs"
            )
    print(f"\n{time.monotonic() - start:.0f} s.")


def _settings() -> Settings:
    return Settings(
        problem=_PROBLEM.value,
        steps=_STEPS.value,
        learning_rate=_LEARNING_RATE.value,
        seconds=_SECONDS.value,
        points=_POINTS.value,
        meta_rates=tuple(dict.fromkeys(_META_RATE.value)),
        seeds=_SEEDS.value,
        runs=_RUNS.value,
        groups=_GROUPS.value,
        particles=_PARTICLES.value,
        sigma=_SIGMA.value,
        test_runs=_TEST_RUNS.value,
    )


def _estimators() -> list[Estimator]:
    return [
        Estimator(method, window)
        for method in dict.fromkeys(_METHOD.value)
        for window in dict.fromkeys(
            (_WINDOW if method == "truncated" else _ES_WINDOW).value
        )
    ]


def _check(settings: Settings, estimators: list[Estimator]) -> None:
    for estimator in estimators:
        if settings.steps % estimator.window:
            raise app.UsageError(
                "--steps must be a multiple of every window. Received: "
                f"--steps={settings.steps} and a window of {estimator.window}."
            )
    if settings.runs % settings.groups:
        raise app.UsageError(
            "--groups must divide --runs. Received: "
            f"--groups={settings.groups} --runs={settings.runs}."
        )


def _measure(
    estimators: list[Estimator], settings: Settings
) -> dict[Estimator, Measured]:
    """Measures each in a process of its own, and prints the results."""
    with concurrent.futures.ProcessPoolExecutor(
        _JOBS.value,
        # A forked process cannot use TensorFlow.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_use_one_thread,
        max_tasks_per_child=1,
    ) as pool:
        measure = functools.partial(long_runs_run.measure, settings=settings)
        _print_head(settings)
        measured = {}
        for estimator, result in zip(
            estimators, pool.map(measure, estimators), strict=True
        ):
            measured[estimator] = result
            _print_row(estimator, result)
        return measured


def _use_one_thread() -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def _summary(measured: Measured) -> dict[str, Any]:
    return {
        "tuning": measured.tuning,
        "meta_rate": measured.meta_rate,
        "losses": measured.losses.tolist(),
        "meta_steps": measured.meta_steps.tolist(),
        "memory": measured.memory,
    }


def _print_head(settings: Settings) -> None:
    rates = ", ".join(f"{rate:g}" for rate in settings.meta_rates)
    print(
        f"\nMean loss over {settings.steps} steps of {settings.test_runs} "
        f"runs, after {settings.seconds:g} s of one thread: mean of\n"
        f"{settings.seeds} trainings, the least and the largest. Rate: of "
        f"Adam, the best of {rates}.\nMB: resident memory at the peak of "
        "training, above that before, with the graph.\n\n"
        f"{'estimator':<26}{'window':>6}{'rate':>6}{'meta-steps':>11}"
        f"{'untrained':>10}{'half-way':>9}{'end':>7}{'range':>16}{'MB':>5}",
        flush=True,
    )


def _print_row(estimator: Estimator, result: Measured) -> None:
    mean, end = result.losses.mean(axis=0), result.losses[:, -1]
    print(
        f"{name_of(estimator.method):<26}"
        f"{estimator.window:>6}"
        f"{result.meta_rate:>6g}"
        f"{result.meta_steps[:, -1].mean():>11.0f}"
        f"{mean[0]:>10.3f}"
        f"{mean[len(mean) // 2]:>9.3f}"
        f"{mean[-1]:>7.3f}"
        f"{f'{end.min():.3f} to {end.max():.3f}':>16}"
        f"{result.memory / 1e6:>5.0f}",
        flush=True,
    )


if __name__ == "__main__":
    binary.run(main)
