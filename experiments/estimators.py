"""Estimators of meta-gradients, where truncation goes the wrong way.

Descends the influence-balancing problem, whose exact gradient and optimum are
known, by each estimator: a run is never reset, and the parameter moves after
each window of it. Prints where the parameter ends, and the gradient at its
start beside the closed form. Draws both against meta-steps. It takes about a
minute on two cores, and always starts anew:

  python -m experiments.estimators
"""

from __future__ import annotations

from experiments import binary

# isort: split
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import app
from absl import flags

from experiments import estimators_figures
from experiments import estimators_run
from experiments import influence_balancing
from experiments import results
from experiments import run_folder
from experiments.estimators_run import Estimator
from experiments.estimators_run import Measured
from experiments.estimators_run import Settings
from experiments.plotting import name_of

# Whoever ends as close to the optimum as this has reached it.
_REACHED = 0.02

_METHOD = flags.DEFINE_multi_enum(
    "method",
    list(estimators_run.METHODS),
    list(estimators_run.METHODS),
    "What to compare; may be given several times.",
)
_WINDOW = flags.DEFINE_multi_integer(
    "window",
    [1, 10, 41, 100],
    "Steps of a window of truncated backpropagation; may be given several "
    "times.",
    lower_bound=1,
)
_ES_WINDOW = flags.DEFINE_multi_integer(
    "es_window",
    [1],
    "Steps of a window of evolution strategies; may be given several times.",
    lower_bound=1,
)
_META_STEPS = flags.DEFINE_integer(
    "meta_steps", 3000, "Steps of the descent.", lower_bound=1
)
_RATE = flags.DEFINE_float("rate", 1e-4, "Rate of the descent.")
_THETA = flags.DEFINE_float("theta", 0.5, "Where it starts.")
_PARTICLES = flags.DEFINE_integer(
    "particles", 1000, "Pairs of particles.", lower_bound=1
)
_SIGMA = flags.DEFINE_float(
    "sigma", 0.1, "Standard deviation of their perturbations."
)
_SEEDS = flags.DEFINE_integer(
    "seeds", 5, "Descents by each estimator that draws.", lower_bound=1
)
_HELD = flags.DEFINE_integer(
    "held",
    200,
    "Windows at the start, in which the state settles, before gradients there "
    "are measured.",
    lower_bound=1,
)
_HELD_SEEDS = flags.DEFINE_integer(
    "held_seeds", 40, "Measured gradients there.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
    "output", "results/estimators", "Folder of the record and the figure."
)
_FIGURES = flags.DEFINE_bool("figures", True, "Whether to draw the figure.")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
    output = pathlib.Path(_OUTPUT.value)
    settings = _settings()
    start = time.monotonic()
    print(
        f"Descending the influence-balancing problem for {settings.meta_steps} "
        f"meta-steps. The record and the figure go to {output}.",
        flush=True,
    )
    with run_folder.owned(output):
        measured = {
            estimator: estimators_run.measure(estimator, settings)
            for estimator in _estimators()
        }
        seconds = time.monotonic() - start
        results.write(
            output,
            settings,
            {e.name: _summary(m) for e, m in measured.items()},
            iterations=settings.meta_steps,
            seconds=seconds,
        )
        if _FIGURES.value:
            estimators_figures.draw_descents(
                measured, settings, output / "estimators"
            )
    _print_table(measured, settings)
    print(f"{time.monotonic() - start:.0f} s.")


def _settings() -> Settings:
    return Settings(
        theta=_THETA.value,
        rate=_RATE.value,
        meta_steps=_META_STEPS.value,
        particles=_PARTICLES.value,
        sigma=_SIGMA.value,
        seeds=_SEEDS.value,
        held=_HELD.value,
        held_seeds=_HELD_SEEDS.value,
    )


def _estimators() -> list[Estimator]:
    chosen = [
        Estimator(method, window)
        for method in dict.fromkeys(_METHOD.value)
        for window in dict.fromkeys(
            (_WINDOW if method == "truncated" else _ES_WINDOW).value
        )
    ]
    return [Estimator("exact", None), *chosen]


def _summary(measured: Measured) -> dict[str, Any]:
    return {
        "theta": measured.descents.thetas[:, -1].tolist(),
        "held_gradient": measured.held.tolist(),
        "seconds": round(measured.seconds, 3),
    }


def _print_table(
    measured: Mapping[Estimator, Measured], settings: Settings
) -> None:
    end = influence_balancing.optimum()
    print(
        f"\nFrom {settings.theta:g}; the optimum is {end:.4f}. Gradients at "
        f"{settings.theta:g} after {settings.held} windows there. Mean ±\n"
        f"standard deviation over seeds, {settings.seeds} for parameters and "
        f"{settings.held_seeds} for gradients.\n"
    )
    print(
        f"{'estimator':<26}{'window':>6}{'parameter':>20}{'distance':>10}"
        f"{'gradient':>16}{'closed form':>13}{'s':>7}"
    )
    for estimator, result in measured.items():
        last = result.descents.thetas[:, -1]
        distance = np.abs(last - end).max()
        print(
            f"{name_of(estimator.method):<26}"
            f"{estimator.window or 'all':>6}"
            f"{_spread(last, '.4g'):>20}"
            f"{distance:>10.2g}"
            f"{_spread(result.held, '.2f'):>16}"
            f"{estimator.expected(settings.theta):>13.2f}"
            f"{result.seconds:>7.2f}"
            f"  {_verdict(last, settings.theta)}"
        )
    print(
        "\nDistance: of the farthest seed from the optimum. Closed form: the "
        "mean of the\nestimator; the exact gradient is "
        f"{influence_balancing.gradient(settings.theta):.2f}. s: a descent, "
        "without tracing.\n"
        f"Reached: all seeds end within {_REACHED:g} of the optimum. Moved "
        "away: all end\nfarther from it than they began."
    )


def _spread(values: np.ndarray, spec: str) -> str:
    """Returns the mean and, of several values, the standard deviation."""
    mean = format(values.mean(), spec)
    if len(values) == 1:
        return mean
    return f"{mean} ± {values.std(ddof=1):.2g}"


def _verdict(last: np.ndarray, first: float) -> str:
    """Returns in words where descents have ended.

    Args:
        last: The last parameter of each.
        first: The first one of all.
    """
    end = influence_balancing.optimum()
    distances = np.abs(last - end)
    if np.all(distances <= _REACHED):
        return "reached"
    if np.all(distances > abs(first - end)):
        return "moved away"
    return "not reached"


if __name__ == "__main__":
    binary.run(main)
