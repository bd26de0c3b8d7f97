"""Few-shot classification of Omniglot's characters.

Trains a learner on characters and tests it on characters it has never seen.
Prints its accuracy (mean ± 95 % interval over tasks) beside the published one,
writes results.json and draws figures. A stopped run continues where it was,
even one stopped by --time_limit. A finished run is not repeated.

5-way 1-shot for ten minutes:

  python -m experiments.omniglot --time_limit=10

20-way 1-shot Meta-SGD at the published length:

  python -m experiments.omniglot --algorithm=meta_sgd --ways=20 --published

On first use, TensorFlow Datasets prepares the data set in --data_dir.
"""

from __future__ import annotations

from experiments import binary

# isort: split
import os
import pathlib
from typing import Any

import tensorflow as tf
from absl import app
from absl import flags

from experiments import implicit_flags
from experiments import omniglot_figures
from experiments import omniglot_run
from experiments import published
from experiments import results
from experiments import run_folder
from experiments.omniglot_run import Settings
from experiments.plotting import name_of

_ALGORITHM = flags.DEFINE_enum(
    "algorithm",
    "maml",
    [
        "maml",
        "fomaml",
        "implicit_maml",
        "proximal_maml",
        "anil",
        "reptile",
        "meta_sgd",
    ],
    "What to train.",
)
_NETWORK = flags.DEFINE_enum(
    "network",
    "conv",
    ["conv", "pool", "mlp"],
    "Strided convolutions, convolutions with pooling, or dense layers only.",
)
_WAYS = flags.DEFINE_integer("ways", 5, "Classes in a task.", lower_bound=2)
_SHOTS = flags.DEFINE_integer(
    "shots", 1, "Support images of each class.", lower_bound=1, upper_bound=19
)
_QUERIES = flags.DEFINE_integer(
    "queries", 5, "Query images of each class.", lower_bound=1, upper_bound=19
)
_STEPS = flags.DEFINE_integer(
    "steps",
    None,
    "Inner steps in training. Default: 1 (20 ways: 5); Reptile: 5 (20 ways: "
    "10); implicit and proximal MAML: 16 (20 ways: 25).",
)
_EVALUATION_STEPS = flags.DEFINE_integer(
    "evaluation_steps",
    None,
    "Inner steps in tests. Default: 3 (20 ways: 5); Reptile: 50; Meta-SGD and "
    "implicit or proximal MAML: as in training.",
)
_INNER_RATE = flags.DEFINE_float(
    "inner_rate",
    None,
    "Rate of the inner loop for the mean loss. Default: 0.4; Reptile (rate of "
    "Adam): 0.001 (20 ways: 0.0005); implicit and proximal MAML: 0.1; "
    "Meta-SGD: drawn from U[0.005, 0.1].",
)
implicit_flags.define(proximal=2.0, momentum=0.0)
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
_META_BATCH = flags.DEFINE_integer(
    "meta_batch",
    None,
    "Tasks in an outer iteration. Default: 32 (20 ways: 16); Reptile: 5.",
)
_ITERATIONS = flags.DEFINE_integer(
    "iterations", 2000, "Outer iterations.", lower_bound=1
)
_PUBLISHED = flags.DEFINE_bool(
    "published",
    False,
    "Train for the published number of iterations: 60000; Reptile: 100000 "
    "(20 ways: 200000).",
)
_PROTOCOL = flags.DEFINE_enum(
    "protocol", "random1200", ["random1200", "vinyals"], "Split of characters."
)
_ROTATIONS = flags.DEFINE_enum(
    "rotations",
    "classes",
    ["classes", "episodes", "none"],
    "Whether rotated characters are additional training classes, or the "
    "classes of each episode are rotated at random, even in tests.",
)
_BATCH_STATISTICS = flags.DEFINE_enum(
    "batch_statistics",
    "batch",
    ["batch", "support", "running"],
    "Statistics that batch normalization uses.",
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights and tasks.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    os.environ.get("TFDS_DATA_DIR"),
    "Folder of the prepared data sets; by default, $TFDS_DATA_DIR or the "
    "folder that TensorFlow Datasets uses.",
)
_VALIDATE_EVERY = flags.DEFINE_integer(
    "validate_every",
    500,
    "Number of iterations between validations, which also save a checkpoint.",
    lower_bound=1,
)
_VALIDATION_TASKS = flags.DEFINE_integer(
    "validation_tasks", 600, "Tasks in a validation.", lower_bound=2
)
_TEST_TASKS = flags.DEFINE_integer(
    "test_tasks", 1000, "Tasks in the test.", lower_bound=2
)
_CURVE_STEPS = flags.DEFINE_integer(
    "curve_steps",
    16,
    "Largest number of inner steps in the figure of the test accuracy.",
    lower_bound=0,
)
_TIME_LIMIT = flags.DEFINE_float(
    "time_limit",
    0.0,
    "Minutes after which training stops and the test begins; 0 for none.",
    lower_bound=0.0,
)
_STEPS_PER_EXECUTION = flags.DEFINE_integer(
    "steps_per_execution",
    10,
    "Iterations per execution, reduced to a divisor if necessary.",
    lower_bound=1,
)
_OUTPUT = flags.DEFINE_string(
    "output", "results/omniglot", "Folder that contains a folder for each run."
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
    settings = _settings()
    directory = pathlib.Path(_OUTPUT.value) / settings.name
    binary.announce(
        f"Training {name_of(settings.algorithm)} on Omniglot, "
        f"{settings.iterations} iterations",
        directory,
    )
    with run_folder.owned(directory):
        record = omniglot_run.run(
            settings,
            directory,
            data_dir=_DATA_DIR.value,
            time_limit=_TIME_LIMIT.value,
            steps_per_execution=_STEPS_PER_EXECUTION.value,
        )
        _draw(record, settings, directory)
    _print_table(record, settings)
    print(f"Records and figures in {directory}.")


def _settings() -> Settings:
    reptile = _ALGORITHM.value == "reptile"
    many = _WAYS.value >= 20
    rates = {
        "reptile": 5e-4 if many else 1e-3,
        "implicit_maml": 0.1,
        "proximal_maml": 0.1,
        "meta_sgd": None,
    }
    steps = _or(_STEPS.value, _default_steps(many))
    return Settings(
        algorithm=_ALGORITHM.value,
        network=_NETWORK.value,
        ways=_WAYS.value,
        shots=_SHOTS.value,
        train_shots=max(10, _SHOTS.value) if reptile else _SHOTS.value,
        queries=_QUERIES.value,
        steps=steps,
        evaluation_steps=_or(
            _EVALUATION_STEPS.value, _default_evaluation_steps(steps)
        ),
        batch_size=(20 if many else 10) if reptile else None,
        inner_rate=_or(_INNER_RATE.value, rates.get(_ALGORITHM.value, 0.4)),
        meta_rate=_or(_META_RATE.value, 1.0 if reptile else 1e-3),
        meta_decay=_or(_META_DECAY.value, "linear" if reptile else "none"),
        meta_batch=_or(_META_BATCH.value, 5 if reptile else 32 - 16 * many),
        iterations=_iterations(),
        protocol=_PROTOCOL.value,
        rotations=_ROTATIONS.value,
        batch_statistics=_BATCH_STATISTICS.value,
        seed=_SEED.value,
        validate_every=min(_VALIDATE_EVERY.value, _iterations()),
        validation_tasks=_VALIDATION_TASKS.value,
        test_tasks=_TEST_TASKS.value,
        curve_steps=_CURVE_STEPS.value,
        implicit=implicit_flags.options(_ALGORITHM.value),
    )


def _iterations() -> int:
    if not _PUBLISHED.value:
        return _ITERATIONS.value
    if _ALGORITHM.value != "reptile":
        return 60_000
    return 200_000 if _WAYS.value >= 20 else 100_000


def _default_steps(many: bool) -> int:
    few_ways, many_ways = {
        "reptile": (5, 10),
        "implicit_maml": (16, 25),
        "proximal_maml": (16, 25),
    }.get(_ALGORITHM.value, (1, 5))
    return many_ways if many else few_ways


def _default_evaluation_steps(steps: int) -> int:
    if _ALGORITHM.value == "reptile":
        return 50
    return steps if _ALGORITHM.value == "meta_sgd" else max(3, steps)


def _or(value, default):
    return default if value is None else value


def _draw(
    record: dict[str, Any], settings: Settings, directory: pathlib.Path
) -> None:
    omniglot_figures.draw_history(
        omniglot_run.history(settings, directory),
        settings.algorithm,
        directory / "validation_accuracy",
    )
    omniglot_figures.draw_curve(
        record, settings.algorithm, directory / "accuracy_by_step"
    )
    test = omniglot_run.load_episodes(settings, "test", _DATA_DIR.value)
    x, y = tf.nest.map_structure(lambda t: t[0], next(iter(test)))
    omniglot_figures.draw_episode(x, y, directory / "episode")


def _print_table(record: dict[str, Any], settings: Settings) -> None:
    measured = results.interval(record["measurements"]["test_accuracy"])
    reference = published.omniglot_accuracy(
        settings.algorithm,
        "mlp" if settings.network == "mlp" else "conv",
        settings.ways,
        settings.shots,
    )
    print(f"\nOmniglot, {settings.ways}-way {settings.shots}-shot, accuracy %")
    print(f"{'':<34}{'measured':>16}{'published':>16}")
    label = f"{name_of(settings.algorithm)}, {settings.network}"
    print(f"{label:<34}{f'{measured.percent:.2f}':>16}{_shown(reference):>16}")
    if reference is not None:
        mark = published.compare(measured.percent, reference, lower=False)
        print(f"The measured accuracy is {mark}; same: the intervals overlap.")
    print(
        f"{record['iterations']} iterations in {record['seconds']:.0f} s, "
        f"{settings.evaluation_steps} inner steps in the test, "
        f"{settings.test_tasks} test tasks, seed {settings.seed}"
    )
    arrival = results.arrival(record)
    if arrival:
        print(arrival)


def _shown(reference) -> str:
    return "-" if reference is None else f"{reference:.2f}"


if __name__ == "__main__":
    binary.run(main)
