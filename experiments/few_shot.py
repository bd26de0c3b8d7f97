"""Few-shot classification of images: all learners under one protocol.

Trains a learner on some classes and tests it on tasks of classes it has never
seen. Prints its accuracy (mean ± 95 % interval over tasks) beside the
published one, writes results.json and draws figures. The tested weights are
those of the best validation.

A stopped run continues where it was. So does a finished one that is called
again with more --iterations or a longer --time_limit. Otherwise it is not
repeated; only tests that are new are made.

Prototypical networks on Omniglot, tested with 5 and with 20 classes:

  python -m experiments.few_shot --learner=prototypical --ways=20 --ways=5

5-way 1-shot MAML for ten minutes:

  python -m experiments.few_shot --learner=maml --time_limit=10

A table of all learners, ten minutes each:

  python -m experiments.few_shot --dataset=cifar_fs --learner=all \
      --time_limit=10

On first use, TensorFlow Datasets prepares the data set in --data_dir.
"""

from __future__ import annotations

from experiments import binary

# isort: split
import os
import pathlib
from typing import Any

import keras
import tensorflow as tf
from absl import app
from absl import flags

from experiments import few_shot_data
from experiments import few_shot_figures
from experiments import few_shot_measure
from experiments import few_shot_run
from experiments import few_shot_table
from experiments import few_shot_training
from experiments import implicit_flags
from experiments import run_folder
from experiments.few_shot_learners import LEARNERS
from experiments.few_shot_learners import Training
from experiments.few_shot_learners import defaults
from experiments.few_shot_settings import INNER_LOOP
from experiments.few_shot_settings import Case
from experiments.few_shot_settings import Settings

_DATA_SET = flags.DEFINE_enum(
    "dataset", "omniglot", list(few_shot_data.DATA_SETS), "The data set."
)
_LEARNER = flags.DEFINE_multi_enum(
    "learner",
    ["maml"],
    [*LEARNERS, "all"],
    "What to train; may be repeated.",
)
_WAYS = flags.DEFINE_multi_integer(
    "ways",
    None,
    "Classes in the tasks of a test; may be repeated for a learner without a "
    "head. Validation uses the first. Default: 5; EuroSAT: 2.",
    lower_bound=2,
)
_SHOTS = flags.DEFINE_multi_integer(
    "shots",
    [1],
    "Support images of each class in the tasks of a test; may be repeated. "
    "Validation uses the first.",
    lower_bound=1,
)
_TIME_LIMIT = flags.DEFINE_float(
    "time_limit",
    0.0,
    "Minutes of training, over all calls, after which a learner is tested; 0 "
    "for none. Training stops at the next validation.",
    lower_bound=0.0,
)
_ITERATIONS = flags.DEFINE_integer(
    "iterations",
    20_000,
    "Iterations; a multiple of --validate_every.",
    lower_bound=1,
)
implicit_flags.define(proximal=2.0, momentum=0.0)
_PROTOCOL = flags.DEFINE_enum(
    "protocol",
    "random1200",
    ["random1200", "vinyals"],
    "Split of Omniglot's characters.",
)
_ROTATIONS = flags.DEFINE_enum(
    "rotations",
    "classes",
    ["classes", "episodes", "none"],
    "Omniglot: whether rotated characters are additional training classes, or "
    "the classes of each episode are rotated at random, even in tests.",
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size",
    None,
    "Side to which images are scaled; smaller ones are for short runs on a "
    "CPU. Not for Omniglot. Default: 84 for mini-ImageNet, 64 for eurosat, 32 "
    "for others.",
    lower_bound=16,
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights and tasks.")
_CURVE_STEPS = flags.DEFINE_integer(
    "curve_steps",
    0,
    "Learners with an inner loop: largest number of inner steps in a figure of "
    "the test accuracy; 0 for no figure.",
    lower_bound=0,
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir",
    os.environ.get("TFDS_DATA_DIR"),
    "Folder of the prepared data sets; by default, $TFDS_DATA_DIR or the "
    "folder that TensorFlow Datasets uses.",
)
_STEPS_PER_EXECUTION = flags.DEFINE_integer(
    "steps_per_execution",
    10,
    "Iterations per execution, reduced to a divisor if necessary.",
    lower_bound=1,
)
_OUTPUT = flags.DEFINE_string(
    "output", "results/few_shot", "Folder that contains a folder for each run."
)


def _define_settings() -> None:
    """Defines flags of settings whose defaults depend on the learner."""
    whole = flags.DEFINE_integer
    number = flags.DEFINE_float
    flags.DEFINE_enum(
        "network",
        None,
        few_shot_data.networks(),
        "Strided convolutions, convolutions with pooling, the same with "
        "images normalized alone (land cover), or dense layers only. pool is "
        "for all data sets, conv and mlp are for Omniglot.",
    )
    whole("filters", None, "Output channels of each convolution.")
    whole("train_ways", None, "Classes in a training task.")
    whole("train_shots", None, "Support images of each class in training.")
    whole("queries", None, "Query images of each class.")
    whole("train_queries", None, "The same in training.")
    whole("meta_batch", None, "Tasks (or images) in an iteration.")
    number("meta_rate", None, "Rate of the optimizer.")
    flags.DEFINE_enum(
        "meta_decay",
        None,
        ["none", "linear", "cosine", "halving"],
        "Decay of that rate.",
    )
    whole(
        "decay_iterations",
        None,
        "Iterations in which the rate falls to its end, or to half. Default: "
        "--iterations; 2000 for halving.",
    )
    number("clip", None, "Largest entry of a gradient.")
    whole("steps", None, "Inner steps in training.")
    whole("evaluation_steps", None, "Inner steps in tests.")
    number(
        "inner_rate",
        None,
        "Rate of the inner loop for the mean loss. Reptile: rate of Adam.",
    )
    whole("batch_size", None, "Reptile: support images in an inner step.")
    flags.DEFINE_enum(
        "batch_statistics",
        None,
        ["batch", "support", "running"],
        "Statistics that batch normalization uses. With batch, predictions "
        "are transductive.",
    )
    whole(
        "validate_every",
        None,
        "Iterations between validations, which also save a checkpoint.",
    )
    whole("validation_tasks", None, "Tasks in a validation.")
    whole("test_tasks", None, "Tasks in each test.")


_define_settings()


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}.")
    runs = chosen_runs()
    label = few_shot_data.DATA_SETS[_DATA_SET.value].label
    binary.announce(f"{_plan(list(runs))} on {label}", _folder())
    records = [_run(settings, _folder()) for settings in runs]
    few_shot_table.print_table(records, next(iter(runs)).tests, label)
    print(f"Records and figures in {_folder()}.")


def chosen_runs() -> dict[Settings, pathlib.Path]:
    """Returns the settings that the flags ask for, and each one's folder."""
    runs = [_settings(learner) for learner in _chosen()]
    return {settings: _folder() / settings.name for settings in runs}


def _folder() -> pathlib.Path:
    return pathlib.Path(_OUTPUT.value) / _DATA_SET.value


def _chosen() -> list[str]:
    if "all" in _LEARNER.value:
        return list(LEARNERS)
    return list(dict.fromkeys(_LEARNER.value))


def _plan(runs: list[Settings]) -> str:
    if len(runs) > 1:
        return f"Training {len(runs)} learners"
    (settings,) = runs
    return f"Training {LEARNERS[settings.learner].label}"


def _settings(learner: str) -> Settings:
    """Returns the settings of a learner: its defaults, changed by flags."""
    ways = few_shot_data.DATA_SETS[_DATA_SET.value].ways
    test_ways = tuple(_or(_WAYS.value, [ways]))
    test_shots = tuple(_SHOTS.value)
    case = Case(_DATA_SET.value, test_ways[0], test_shots[0])
    values = {
        name: _or(flags.FLAGS[name].value, value)
        for name, value in defaults(case, learner).items()
    }
    if defaults(case, learner)["steps"] is None:
        values |= dict.fromkeys(INNER_LOOP)
    values["decay_iterations"] = _decay_iterations(values)
    settings = Settings(
        data_set=case.data_set,
        learner=learner,
        ways=case.ways,
        shots=case.shots,
        iterations=_iterations(learner),
        implicit=implicit_flags.options(learner),
        protocol=_PROTOCOL.value,
        rotations=_ROTATIONS.value,
        seed=_SEED.value,
        image_size=_IMAGE_SIZE.value,
        test_ways=test_ways,
        test_shots=test_shots,
        curve_steps=_CURVE_STEPS.value * (values["steps"] is not None),
        **values,
    )
    _check(settings)
    return settings


def _iterations(learner: str) -> int:
    row = LEARNERS[learner]
    is_trained = row.training is not Training.NOTHING or row.encoder_from
    return _ITERATIONS.value if is_trained else 0


def _or(value, default):
    return default if value is None else value


def _decay_iterations(values: dict[str, Any]) -> int | None:
    fixed = {"none": None, "halving": 2_000}
    return _or(
        values["decay_iterations"],
        fixed.get(values["meta_decay"], _ITERATIONS.value),
    )


def _check(settings: Settings) -> None:
    """Refuses settings that do not go together."""
    data_set = few_shot_data.DATA_SETS[settings.data_set]
    if settings.network not in data_set.networks:
        raise app.UsageError(
            f"--dataset={settings.data_set} has the networks "
            f"{', '.join(data_set.networks)}. Received: "
            f"--network={settings.network}."
        )
    if settings.image_size is not None and data_set.image_size is None:
        raise app.UsageError(
            f"--image_size is not for --dataset={settings.data_set}, whose "
            "networks are for one size of images. Received: "
            f"--image_size={settings.image_size}."
        )
    if settings.iterations % settings.validate_every:
        raise app.UsageError(
            "--iterations must be a multiple of --validate_every. Received: "
            f"--iterations={settings.iterations} and "
            f"--validate_every={settings.validate_every}."
        )
    has_head = not LEARNERS[settings.learner].any_ways
    if has_head and {*settings.test_ways} != {settings.train_ways}:
        raise app.UsageError(
            f"{settings.learner} has a head for as many classes as in "
            f"training. Received: --train_ways={settings.train_ways} and "
            f"--ways={settings.test_ways}. Train once for each."
        )


def _run(settings: Settings, output: pathlib.Path) -> dict[str, Any]:
    base = None
    encoder_from = LEARNERS[settings.learner].encoder_from
    if encoder_from is not None:
        others = _settings(encoder_from)
        _run(others, output)
        base = few_shot_run.Run(others, output / others.name)
    directory = output / settings.name
    with run_folder.owned(directory):
        record = few_shot_run.run(
            settings,
            directory,
            data_dir=_DATA_DIR.value,
            time_limit=_TIME_LIMIT.value,
            steps_per_execution=_STEPS_PER_EXECUTION.value,
            base=base,
        )
        _draw(record, settings, directory)
    # Frees the graphs of this learner.
    keras.backend.clear_session()
    return record


def _draw(
    record: dict[str, Any], settings: Settings, directory: pathlib.Path
) -> None:
    learner, label = settings.learner, LEARNERS[settings.learner].label
    if LEARNERS[learner].training is not Training.NOTHING:
        few_shot_figures.draw_history(
            few_shot_training.progress_of(settings, directory).history,
            learner,
            label,
            directory / "validation_accuracy",
        )
    test = few_shot_run.test_name(settings.ways, settings.shots)
    curve = record["measurements"]["tests"][test].get("curve")
    if curve is not None:
        few_shot_figures.draw_curve(
            curve, learner, label, directory / "accuracy_by_step"
        )
    episodes = few_shot_measure.draw_test(settings, _DATA_DIR.value)
    x, y = tf.nest.map_structure(lambda t: t[0], next(iter(episodes)))
    few_shot_figures.draw_episode(x, y, directory / "episode")


if __name__ == "__main__":
    binary.run(main)
