"""Navigation in the plane: reinforcement learning that adapts to a goal.

A point has to find a goal that only its rewards tell. Trains policies that
adapt by a policy gradient step, with the naive and with corrected second
derivatives, and tests them on new goals after 0, 1, ... updates beside
pre-trained and random policies. Prints the mean returns (± 95 % interval over
goals) and the published ones, and draws paths before and after adaptation. A
stopped run continues where it was. A finished run is not repeated.

  python -m experiments.navigation
"""

from __future__ import annotations

from experiments import binary

# isort: split
import pathlib
import time
from typing import Any

from absl import app
from absl import flags

from experiments import navigation_figures
from experiments import navigation_run
from experiments.navigation_run import Settings

_OBJECTIVES = ("likelihood_ratio", "score_function", "loaded_dice", "dice")
# Mean returns after 0, 1, ... updates, over 40 goals: the curves in the code
# of Finn et al., 2017.
_PUBLISHED = {
    "MAML": (-40.4, -11.7, -3.3, -3.2),
    "Untrained": (-82.7, -58.0, -53.8, -46.8),
}
_PUBLISHED_ORACLE = -2.3

_ALGORITHM = flags.DEFINE_multi_enum(
    "algorithm",
    ["maml", "pretrained", "untrained"],
    ["maml", "fomaml", "pretrained", "untrained"],
    "What to train; may be repeated.",
)
_OBJECTIVE = flags.DEFINE_multi_enum(
    "objective",
    list(_OBJECTIVES),
    list(_OBJECTIVES),
    "What an inner step of MAML descends in training; may be repeated. The "
    "other algorithms, which take no second derivative, take the first.",
)
_ITERATIONS = flags.DEFINE_integer(
    "iterations",
    200,
    "Outer iterations; above 10, a multiple of 10.",
    lower_bound=1,
)
_META_BATCH = flags.DEFINE_integer(
    "meta_batch", 20, "Goals in an outer iteration.", lower_bound=1
)
_ROLLOUTS = flags.DEFINE_integer(
    "rollouts", 20, "Rollouts of each goal for an update.", lower_bound=1
)
_INNER_RATE = flags.DEFINE_float(
    "inner_rate",
    0.5,
    "Rate of the inner step, and of the first one in tests.",
)
_LATER_RATE = flags.DEFINE_float(
    "later_rate",
    0.2,
    "Rate of the later inner steps in tests.",
    lower_bound=0.0,
)
_META_RATE = flags.DEFINE_float("meta_rate", 0.006, "Rate of Adam.")
_HIDDEN = flags.DEFINE_multi_integer(
    "hidden", [100, 100], "Sizes of the policy's hidden layers."
)
_INITIAL_STD = flags.DEFINE_float(
    "initial_std", 0.4, "Where the standard deviation of actions begins."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights, goals and actions.")
_TEST_GOALS = flags.DEFINE_integer(
    "test_goals", 40, "Goals in the test.", lower_bound=2
)
_TEST_STEPS = flags.DEFINE_integer(
    "test_steps", 3, "Updates in the test.", lower_bound=1
)
_TEST_ROLLOUTS = flags.DEFINE_integer(
    "test_rollouts", 40, "Rollouts of each goal in the test.", lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
    "output", "results/navigation", "Folder for records, weights and figures."
)
_FIGURES = flags.DEFINE_bool("figures", True, "Whether to draw figures.")


@flags.validator("iterations", message="must be a multiple of 10 above 10")
def _is_whole(iterations: int) -> bool:
    return iterations <= 10 or iterations % 10 == 0


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
    output = pathlib.Path(_OUTPUT.value)
    start = time.monotonic()
    chosen = _chosen()
    binary.announce(
        f"Training on goals in the plane for {chosen[0].iterations} iterations",
        output,
    )
    records = {
        settings: navigation_run.run(settings, output)
        for settings in map(_announced, chosen)
    }
    _print_table(records)
    if _FIGURES.value:
        navigation_figures.draw_returns(records, output / "returns")
        navigation_figures.draw_paths(
            chosen[0],
            navigation_run.rollouts_of(
                chosen[0], output, navigation_figures.GOALS
            ),
            output / "paths",
        )
    print(f"{time.monotonic() - start:.0f} s. Records in {output}.")


def _chosen() -> list[Settings]:
    pairs = [
        (algorithm, objective)
        for algorithm in dict.fromkeys(_ALGORITHM.value)
        for objective in dict.fromkeys(
            _OBJECTIVE.value if algorithm == "maml" else _OBJECTIVES[:1]
        )
    ]
    return [_settings(*pair) for pair in pairs]


def _settings(algorithm: str, objective: str) -> Settings:
    return Settings(
        algorithm=algorithm,
        objective=objective,
        iterations=_ITERATIONS.value,
        meta_batch=_META_BATCH.value,
        rollouts=_ROLLOUTS.value,
        inner_rate=_INNER_RATE.value,
        later_rate=_LATER_RATE.value,
        meta_rate=_META_RATE.value,
        hidden=tuple(_HIDDEN.value),
        initial_std=_INITIAL_STD.value,
        seed=_SEED.value,
        test_goals=_TEST_GOALS.value,
        test_steps=_TEST_STEPS.value,
        test_rollouts=_TEST_ROLLOUTS.value,
    )


def _announced(settings: Settings) -> Settings:
    print(f"{navigation_figures.label_of(settings)} ...", flush=True)
    return settings


def _print_table(records: dict[Settings, dict[str, Any]]) -> None:
    settings = next(iter(records))
    steps = range(settings.test_steps + 1)
    print(
        f"\nMean return of {settings.test_goals} new goals after a number of "
        "updates, ± 95 % interval over goals"
    )
    header = "".join(f"{step:>14}" for step in steps)
    print(f"{'':<32}{header}{'iterations':>12}{'s':>7}")
    for settings, record in records.items():
        curve = record["measurements"]["returns"]
        cells = "".join(
            f"{f'{mean:.1f} ± {half:.1f}':>14}"
            for mean, half in zip(
                curve["mean"], curve["half_width"], strict=True
            )
        )
        print(
            f"{navigation_figures.label_of(settings):<32}{cells}"
            f"{record['iterations']:>12}{record['seconds']:>7.0f}"
        )
    for name, returns in _PUBLISHED.items():
        shown = [*returns[: len(steps)], *[None] * (len(steps) - len(returns))]
        cells = "".join(f"{'' if x is None else f'{x:.1f}':>14}" for x in shown)
        print(f"{f'Published: {name}':<32}{cells}")
    straight = navigation_run.straight_line(settings)
    print(
        f"Straight to the goal: {straight:.2f}. Published oracle: "
        f"{_PUBLISHED_ORACLE}."
    )


if __name__ == "__main__":
    binary.run(main)
