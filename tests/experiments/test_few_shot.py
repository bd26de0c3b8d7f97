import dataclasses
import json
import os
import subprocess

import keras
import numpy as np
import pytest
from absl import app
from absl import flags
from absl.testing import flagsaver

import keras_meta
from experiments import checkpoint
from experiments import few_shot
from experiments import few_shot_data
from experiments import few_shot_measure
from experiments import few_shot_run
from experiments import few_shot_training
from experiments import run_folder
from experiments.algorithms import ImplicitOptions
from experiments.few_shot_learners import LEARNERS
from experiments.few_shot_learners import Training
from experiments.few_shot_learners import defaults
from experiments.few_shot_settings import Case
from experiments.few_shot_settings import Settings
from keras_meta import episodes
from keras_meta.evaluation import Interval
from tests import data_sets

_PARTS = {"train": 0, "validation": 1, "test": 2}


def _load(settings, part, data_dir):
    """Returns six classes of noisy images, other ones for each part."""
    rng = np.random.default_rng(_PARTS[part])
    centers = np.repeat(rng.integers(0, 256, [6, 1, 4, 4, 1]), 8, axis=1)
    images = np.clip(centers + rng.integers(-30, 31, centers.shape), 0, 255)
    items = images.reshape([-1, 4, 4, 1]).astype("uint8")
    return episodes.Classes(items, [8] * 6, list("abcdef"))


def _network(ways, settings):
    return keras.Sequential(
        [
            keras.Input([4, 4, 1]),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(ways),
        ]
    )


@pytest.fixture
def tiny(monkeypatch):
    """Adds a data set of tiny images."""
    row = few_shot_data.DataSet("Tiny", _load, _network)
    monkeypatch.setitem(few_shot_data.DATA_SETS, "tiny", row)


def _settings(learner, **changes):
    ways, shots = 3, 1
    values = {
        **defaults(Case("tiny", ways, shots), learner),
        "train_ways": ways,
        "train_shots": shots,
        "queries": 2,
        "meta_batch": 4,
        "validate_every": 2,
        "validation_tasks": 4,
        "test_tasks": 4,
        "decay_iterations": 2,
    }
    if values["steps"] is not None:
        # Longer loops take longer to compile.
        values |= {"steps": 2, "evaluation_steps": 1}
    settings = Settings(
        data_set="tiny",
        learner=learner,
        ways=ways,
        shots=shots,
        iterations=4,
        implicit=None,
        protocol="random1200",
        rotations="none",
        seed=0,
        test_ways=(ways,),
        test_shots=(shots,),
        curve_steps=0,
        **values,
    )
    return dataclasses.replace(settings, **changes)


def _run(settings, folder, **options):
    folder.mkdir(exist_ok=True)
    options = {"time_limit": 0.0, "steps_per_execution": 1, **options}
    return few_shot_run.run(settings, folder, data_dir=None, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "learner",
    ["prototypical", "maml_plus_plus", "pretrained_prototypes", "siamese"],
)
def test_a_run_that_goes_on_ends_like_one_that_never_stopped(
    tiny, tmp_path, learner
):
    settings = _settings(learner)
    straight = _run(settings, tmp_path / "straight")
    folder = tmp_path / "in_parts"
    for _ in range(2):
        part = _run(settings, folder, time_limit=1e-9)
        assert part["iterations"] == 2
    whole = _run(settings, folder)
    for record in (straight, whole):
        del record["seconds"]
    assert whole == straight
    states = [
        few_shot_training.progress_of(settings, tmp_path / name)
        for name in ("straight", "in_parts")
    ]
    for one, other in zip(*(state.best for state in states), strict=True):
        np.testing.assert_array_equal(one, other)
    for state in states:
        for row in state.history:
            del row["seconds"]
    assert states[0].history == states[1].history


@pytest.mark.slow
@pytest.mark.parametrize(
    "learner",
    [
        "nearest_pixels",
        "nearest_neighbour",
        "logistic_regression",
        "fine_tuning",
        "fine_tuning_all",
        "from_scratch",
        "baseline_plus_plus",
    ],
)
def test_baselines_are_tested_on_the_same_tasks(tiny, tmp_path, learner):
    settings = _settings(learner)
    if LEARNERS[learner].training is Training.NOTHING:
        settings = dataclasses.replace(settings, iterations=0)
    record = _run(settings, tmp_path)
    assert record["iterations"] == settings.iterations
    test = record["measurements"]["tests"]["3-way 1-shot"]
    assert 0.0 <= test["accuracy"]["mean"] <= 1.0
    assert test["accuracy"]["tasks"] == settings.test_tasks


@pytest.mark.slow
@pytest.mark.parametrize(
    "learner",
    [n for n, row in LEARNERS.items() if row.training is Training.EPISODES],
)
def test_every_learner_trains(tiny, tmp_path, learner):
    settings = _settings(
        learner,
        iterations=2,
        implicit=ImplicitOptions(2.0, 0.0, 2, 0.0),
    )
    record = _run(settings, tmp_path)
    measured = record["measurements"]
    assert measured["selected_iteration"] == 2
    assert measured["tests"]["3-way 1-shot"]["accuracy"]["tasks"] == 4


@pytest.mark.slow
def test_a_finished_run_takes_more_iterations(tiny, tmp_path):
    settings = _settings("ridge")
    _run(settings, tmp_path)
    longer = dataclasses.replace(settings, iterations=6)
    record = _run(longer, tmp_path)
    assert record["iterations"] == 6
    assert [
        row["iterations"]
        for row in few_shot_training.progress_of(longer, tmp_path).history
    ] == [2, 4, 6]


@pytest.mark.slow
def test_an_encoder_serves_several_learners(tiny, tmp_path):
    settings = _settings("pretrained_prototypes")
    _run(settings, tmp_path / "base")
    base = few_shot_run.Run(settings, tmp_path / "base")
    record = _run(
        dataclasses.replace(settings, learner="pretrained_ridge"),
        tmp_path / "ridge",
        base=base,
    )
    assert record["iterations"] == 4
    ridge = keras_meta.RidgeHead.from_preset(tmp_path / "ridge" / "preset")
    trained = few_shot_training.load(base.directory)
    for one, other in zip(
        ridge.encoder.get_weights(), trained.encoder.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_validation_chooses_the_rate(tiny, tmp_path, monkeypatch):
    row = LEARNERS["from_scratch"]
    # The inner loop diverges at the last one.
    row = dataclasses.replace(row, rates=(1e-9, 0.1, 1e30))
    monkeypatch.setitem(LEARNERS, "from_scratch", row)
    settings = _settings(
        "from_scratch", iterations=0, steps=10, evaluation_steps=10
    )
    measured = _run(settings, tmp_path)["measurements"]
    rates = measured["rates"]
    assert list(rates) == ["1e-09", "0.1", "1e+30"]
    assert measured["inner_rate"] == 0.1
    assert rates["0.1"] > rates["1e-09"]
    assert rates["1e+30"] is None
    learner = few_shot_training.load(tmp_path)
    assert learner.update_rule.get_config()["learning_rate"] == 0.1
    fixed = dataclasses.replace(settings, inner_rate=0.1)
    again = _run(fixed, tmp_path / "fixed")["measurements"]
    assert "rates" not in again
    assert again["tests"] == measured["tests"]


@pytest.mark.slow
def test_a_learner_that_diverges_at_all_rates_is_refused(
    tiny, tmp_path, monkeypatch
):
    row = dataclasses.replace(LEARNERS["from_scratch"], rates=(1e30, 1e31))
    monkeypatch.setitem(LEARNERS, "from_scratch", row)
    settings = _settings("from_scratch", iterations=0)
    with pytest.raises(FloatingPointError, match="1e\\+30, 1e\\+31.*--inner_r"):
        _run(settings, tmp_path)


def test_validation_keeps_the_weights_that_did_best():
    learner = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    progress = checkpoint.Progress()
    accuracies = iter([0.5, 0.9, 0.7])
    validation = few_shot_training.Validation(
        learner,
        lambda: {"accuracy": Interval(next(accuracies), 0.1, 2)},
        progress,
    )
    for epoch in range(3):
        learner.layers[0].bias.assign([epoch])
        logs = {}
        validation.on_epoch_end(epoch, logs)
        progress.history.append(logs)
    assert progress.best[1] == [1.0]


@pytest.mark.slow
def test_embedding_each_image_once_changes_no_result(tiny, monkeypatch):
    settings = _settings("matching", test_tasks=8)
    learner = few_shot_training.make(settings)
    learner.set_weights([w + 0.5 for w in learner.get_weights()])
    tests = [(2, 3)]

    def measure():
        return few_shot_measure.measure(
            learner, settings, "test", None, tests=tests, tasks=8
        )

    once = measure()
    monkeypatch.setattr(
        few_shot_measure, "_embeds_alone", lambda learner, settings: False
    )
    always = measure()
    for test in tests:
        first, second = once[test], always[test]
        assert first["accuracy"] == second["accuracy"]
        assert first["loss"].mean == pytest.approx(
            second["loss"].mean, rel=1e-5
        )


def test_only_new_tests_are_made(tiny, tmp_path, monkeypatch):
    settings = _settings("untrained_prototypes", iterations=0)
    first = _run(settings, tmp_path)
    more = dataclasses.replace(settings, test_ways=(3, 2))
    made = []
    measure = few_shot_measure.measure

    def counted(*arguments, tests, tasks):
        made.extend(tests)
        return measure(*arguments, tests=tests, tasks=tasks)

    monkeypatch.setattr(few_shot_measure, "measure", counted)
    second = _run(more, tmp_path)
    assert made == [(2, 1)]
    before, after = (r["measurements"]["tests"] for r in (first, second))
    assert after["3-way 1-shot"] == before["3-way 1-shot"]
    assert set(after) == {"3-way 1-shot", "2-way 1-shot"}
    _run(settings, tmp_path)
    assert made == [(2, 1)]


def test_the_checkpoint_of_another_seed_is_not_used(tiny, tmp_path):
    settings = _settings("prototypical")
    learner = few_shot_training.make(settings)
    learner.compile("adam")
    learner.optimizer.build(learner.trainable_variables)
    save = checkpoint.Checkpoint(
        tmp_path, settings, checkpoint.Progress(iterations=4)
    )
    save.set_model(learner)
    save.on_train_batch_end(3)
    save.on_train_end()
    with pytest.raises(run_folder.OtherSettings, match="seed=0, now 1"):
        _run(dataclasses.replace(settings, seed=1), tmp_path)


@pytest.mark.parametrize(
    ("data_set", "learner"),
    [
        ("omniglot", "maml"),
        ("cifar_fs", "ridge"),
        *(
            pytest.param("omniglot", learner, marks=pytest.mark.slow)
            for learner in LEARNERS
        ),
        *(
            pytest.param(data_set, "anil", marks=pytest.mark.slow)
            for data_set in few_shot_data.DATA_SETS
        ),
    ],
)
def test_learners_are_made_by_their_defaults(tiny, data_set, learner):
    ways = few_shot_data.DATA_SETS[data_set].ways
    settings = dataclasses.replace(
        _settings(learner),
        data_set=data_set,
        ways=ways,
        implicit=ImplicitOptions(2.0, 0.0, 5, 0.0),
        **defaults(Case(data_set, ways, 1), learner),
    )
    made = few_shot_training.make(settings)
    assert made.compiled
    assert {made.get_config().get("ways")} <= {None, settings.train_ways}


def test_every_network_can_be_chosen():
    defined = flags.FLAGS.get_flags_for_module(few_shot)
    (network,) = (f for f in defined if f.name == "network")
    for row in few_shot_data.DATA_SETS.values():
        assert {*row.networks} <= {*network.parser.enum_values}


@pytest.mark.parametrize(
    "data_set",
    [
        pytest.param("mini_imagenet", marks=data_sets.needs("mini_imagenet")),
        pytest.param(
            "eurosat_spatial",
            marks=[data_sets.needs("eurosat"), pytest.mark.slow],
        ),
        pytest.param(
            "sen12ms_regions",
            marks=[data_sets.needs("sen12ms_regions"), pytest.mark.slow],
        ),
    ],
)
def test_images_are_scaled_to_what_the_network_takes(tiny, data_set):
    settings = dataclasses.replace(
        _settings("prototypical"),
        data_set=data_set,
        network="pool",
        image_size=16,
        train_ways=4,
    )
    classes = few_shot_data.load_classes(
        settings, "validation", os.environ["TFDS_DATA_DIR"]
    )
    drawn = few_shot_data.draw_episodes(
        classes, settings, "validation", ways=4, shots=1, tasks=1
    )
    network = few_shot_data.make_network(settings)
    images = drawn.element_spec[0]["support_x"].shape[2:]
    assert tuple(images) == network.input_shape[1:] == (16, 16, 3)


def test_scaled_images_of_omniglot_are_refused():
    with flagsaver.flagsaver():
        flags.FLAGS(["few_shot", "--image_size=20"])
        with pytest.raises(app.UsageError, match="--image_size=20"):
            few_shot.chosen_runs()


@pytest.mark.slow
@data_sets.needs("omniglot")
def test_binary(run_binary, tmp_path):
    arguments = (
        "--learner=maml",
        "--learner=matching",
        "--learner=untrained_prototypes",
        "--network=mlp",
        "--iterations=4",
        "--validate_every=2",
        "--meta_batch=2",
        "--queries=1",
        "--validation_tasks=2",
        "--test_tasks=4",
        "--evaluation_steps=1",
        "--curve_steps=1",
        f"--output={tmp_path}",
    )
    printed = run_binary("few_shot", *arguments)
    assert printed.startswith("Training 3 learners on Omniglot, on ")
    assert "(89.70 ± 1.10, " in printed
    run = tmp_path / "omniglot" / "maml_mlp_5way_1shot_seed0"
    record = json.loads((run / "results.json").read_text())
    assert record["iterations"] == 4
    assert record["measurements"]["transductive"]
    test = record["measurements"]["tests"]["5-way 1-shot"]
    assert test["accuracy"]["tasks"] == 4
    assert len(test["curve"]["mean"]) == 2
    history = (run / "history.csv").read_text().splitlines()
    column = history[0].split(",").index("iterations")
    assert [row.split(",")[column] for row in history[1:]] == ["2", "4"]
    for figure in ("validation_accuracy", "accuracy_by_step", "episode"):
        assert (run / f"{figure}.png").stat().st_size > 1000


@pytest.mark.slow
def test_help_explains_with_examples(run_binary):
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run_binary("few_shot", "--help")
    assert "experiments.few_shot --learner=maml" in caught.value.output
