"""The table of a data set: learners beside their published numbers."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from experiments import published
from experiments import results
from experiments.few_shot_learners import LEARNERS
from experiments.few_shot_run import test_name
from keras_meta.evaluation import Interval


def print_table(
    records: Sequence[Mapping[str, Any]],
    tests: Sequence[tuple[int, int]],
    label: str,
) -> None:
    """Prints tests of some runs, in Markdown.

    Args:
        records: Records of runs, which have these tests.
        tests: Ways and shots of the tests.
        label: Name of the data set.
    """
    tasks = records[0]["settings"]["test_tasks"]
    print(
        f"\n{label}: accuracy on {tasks} test tasks, % (mean ± 95 % interval; "
        "in parentheses, the published number and whether the measured one is "
        "worse, better or the same, which means that the intervals overlap)\n"
    )
    names = [test_name(*test) for test in tests]
    header = ["learner", *names, "network", "trained", "iterations"]
    header += ["selected", "minutes", "transductive"]
    print(_line(header))
    print(_line(["---"] * len(header)))
    for record in records:
        print(_line(_cells(record, tests)))
    for record in records:
        arrival = results.arrival(record)
        if arrival:
            print(f"\n{_label(record)}: {arrival}")
    for record in records:
        if "rates" in record["measurements"]:
            print(f"\n{_label(record)}: {_rates(record)}")


def _rates(record: Mapping[str, Any]) -> str:
    """Returns which rate validation chose, and its accuracy with each."""
    measured = record["measurements"]
    tried = ", ".join(
        f"{'diverges' if x is None else f'{100 * x:.1f}'} with {rate}"
        for rate, x in measured["rates"].items()
    )
    return (
        f"the rate {measured['inner_rate']:g}, chosen on validation tasks "
        f"(accuracy {tried})."
    )


def _cells(
    record: Mapping[str, Any], tests: Sequence[tuple[int, int]]
) -> list[str]:
    settings, measured = record["settings"], record["measurements"]
    selected = measured.get("selected_iteration", "-")
    return [
        _label(record),
        *(_accuracy(record, *test) for test in tests),
        f"{settings['network']}, {settings['filters']} filters",
        f"{settings['train_ways']}-way {settings['train_shots']}-shot",
        str(record["iterations"]),
        str(selected),
        f"{record['seconds'] / 60:.0f}",
        "yes" if measured["transductive"] else "no",
    ]


def _accuracy(record: Mapping[str, Any], ways: int, shots: int) -> str:
    settings = record["settings"]
    test = record["measurements"]["tests"][test_name(ways, shots)]
    accuracy = results.interval(test["accuracy"]).percent
    reference = published.few_shot_accuracy(
        settings["data_set"],
        settings["learner"],
        settings["network"],
        ways,
        shots,
    )
    if reference is None:
        return f"{accuracy:.2f}"
    mark = published.compare(accuracy, reference, lower=False)
    return f"{accuracy:.2f} ({_shown(reference)}, {mark})"


def _shown(reference: Interval) -> str:
    if reference.half_width:
        return f"{reference:.2f}"
    return f"{reference.mean:.2f}"


def _label(record: Mapping[str, Any]) -> str:
    return LEARNERS[record["settings"]["learner"]].label


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
