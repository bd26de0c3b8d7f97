"""Ambiguous regression: a few noisy points on a sine wave or on a line.

Trains MAML, an ensemble of it, probabilistic and Bayesian MAML, and measures
on new tasks how good and how honest their predictions are. Prints a table and
draws samples for support sets that a wave and a line explain equally well. A
stopped run continues where it was. A finished run is not repeated.

  python -m experiments.ambiguous
"""

from __future__ import annotations

from experiments import binary

# isort: split
import pathlib
from typing import Any

from absl import app
from absl import flags

from experiments import ambiguous_figures
from experiments import ambiguous_run
from experiments import results
from experiments.ambiguous_run import LEARNERS
from experiments.ambiguous_run import Settings
from experiments.plotting import name_of

_LEARNER = flags.DEFINE_multi_enum(
    "learner", list(LEARNERS), LEARNERS, "What to train; may be repeated."
)
_SHOTS = flags.DEFINE_integer(
    "shots", 5, "Number of support points.", lower_bound=1
)
_ITERATIONS = flags.DEFINE_integer(
    "iterations",
    5_000,
    "Outer iterations; above 500, a multiple of 500.",
    lower_bound=1,
)
_META_BATCH = flags.DEFINE_integer(
    "meta_batch", 25, "Tasks in an outer iteration.", lower_bound=1
)
_STEPS = flags.DEFINE_integer("steps", 5, "Inner steps.", lower_bound=1)
_INNER_RATE = flags.DEFINE_float(
    "inner_rate",
    0.01,
    "Initial rate of the inner loop for the mean squared error, learned for "
    "each layer; Bayesian MAML does not learn it.",
)
_META_RATE = flags.DEFINE_float(
    "meta_rate", 1e-3, "Rate of the outer optimizer, Adam."
)
_META_DECAY = flags.DEFINE_enum(
    "meta_decay", "cosine", ["none", "linear", "cosine"], "Its decay."
)
_HIDDEN = flags.DEFINE_multi_integer(
    "hidden", [40, 40], "Sizes of the hidden layers."
)
_PARTICLES = flags.DEFINE_integer(
    "particles",
    5,
    "Members of an ensemble, and of Bayesian MAML.",
    lower_bound=1,
)
_SAMPLES = flags.DEFINE_integer(
    "samples", 20, "Samples of probabilistic MAML in tests.", lower_bound=1
)
_KL_WEIGHT = flags.DEFINE_float(
    "kl_weight", 1.0, "Weight of probabilistic MAML's divergence."
)
_SCALE = flags.DEFINE_float(
    "scale", 0.02, "Its initial standard deviation of weights."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights and tasks.")
_TEST_TASKS = flags.DEFINE_integer(
    "test_tasks", 1000, "Tasks in the test.", lower_bound=2
)
_OUTPUT = flags.DEFINE_string(
    "output", "results/ambiguous", "Folder for records, weights and figures."
)

_COLUMNS = {
    "mse": "squared error",
    "predictive_nll": "NLL, nats",
    "coverage": "coverage",
    "plausible": "plausible",
    "lines": "lines",
    "both": "both kinds",
    "noise": "noise",
}


@flags.validator(
    "iterations", message="must be a multiple of 500 if it exceeds 500"
)
def _is_whole(iterations: int) -> bool:
    return iterations <= 500 or iterations % 500 == 0


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
    output = pathlib.Path(_OUTPUT.value)
    settings = [_settings(name) for name in dict.fromkeys(_LEARNER.value)]
    binary.announce(
        f"Training {len(settings)} learners on sine waves and lines for "
        f"{_ITERATIONS.value} iterations",
        output,
    )
    records = []
    for one in settings:
        records.append(ambiguous_run.run(one, output))
        seconds = records[-1]["seconds"]
        print(f"{name_of(one.algorithm)}: {seconds:.0f} s", flush=True)
    _print_table(records)
    ambiguous_figures.draw_samples(
        {s.algorithm: (s, ambiguous_run.load(s, output)) for s in settings},
        _SEED.value,
        output / f"samples_{_SHOTS.value}shot",
    )
    print(f"Records and figures in {output}.")


def _settings(algorithm: str) -> Settings:
    return Settings(
        algorithm=algorithm,
        shots=_SHOTS.value,
        iterations=_ITERATIONS.value,
        meta_batch=_META_BATCH.value,
        steps=_STEPS.value,
        inner_rate=_INNER_RATE.value,
        meta_rate=_META_RATE.value,
        meta_decay=_META_DECAY.value,
        hidden=tuple(_HIDDEN.value),
        particles=_PARTICLES.value,
        samples=_SAMPLES.value,
        kl_weight=_KL_WEIGHT.value,
        scale=_SCALE.value,
        seed=_SEED.value,
        test_tasks=_TEST_TASKS.value,
    )


def _print_table(records: list[dict[str, Any]]) -> None:
    header = "".join(f"{title:>18}" for title in _COLUMNS.values())
    print(f"\n{_SHOTS.value} points, {_TEST_TASKS.value} test tasks")
    print(f"{'':<20}{header}")
    for record in records:
        measured = record["measurements"]
        cells = "".join(f"{_cell(measured[key]):>18}" for key in _COLUMNS)
        print(f"{name_of(record['settings']['algorithm']):<20}{cells}")
    print("Coverage: of labels within 2 standard deviations, .954 if honest.")
    print("NLL and coverage take the noise in the last column, which is tuned")
    print("on validation tasks. The columns before it are of samples for")
    print("ambiguous support sets: the share that explains the points, the")
    print("share nearer to a line than to a wave, and the share of tasks with")
    print("samples of both kinds.\n")


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return f"{results.interval(value):.2f}"
    return f"{value:.2f}"


if __name__ == "__main__":
    binary.run(main)
