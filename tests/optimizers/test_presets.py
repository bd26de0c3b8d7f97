"""Writing and reading presets, and the presets in the package."""

import io
import json
import os
import pathlib
import shutil
import zipfile

import keras
import numpy as np
import pytest

import keras_meta
from keras_meta import durable_files
from keras_meta.optimizers import HierarchicalRNNOptimizer
from keras_meta.optimizers import LearnedOptimizer
from keras_meta.optimizers import LSTMOptimizer
from keras_meta.optimizers import presets

SHIPPED = pathlib.Path(presets.__file__).parent / "presets"


def trained_lstm(**options):
    optimizer = LSTMOptimizer([4, 3], seed=0, preprocessing=5.0, **options)
    rng = np.random.default_rng(0)
    for weight in optimizer.rule.weights:
        weight.assign(0.3 * rng.normal(size=weight.shape))
    return optimizer


def rewrite(folder, arguments=None, weights=None, **changes):
    """Changes a preset and updates its checksums."""
    record = durable_files.read_json(folder / "rule.json", "")
    record["config"] |= arguments or {}
    if weights is not None:
        (folder / "weights.npz").write_bytes(weights)
        record["weights_sha256"] = durable_files.digest_of(weights)
    durable_files.write_json(folder / "rule.json", {**record, **changes})


def archive(*arrays):
    buffer = io.BytesIO()
    np.savez(buffer, *arrays)
    return buffer.getvalue()


def assert_same_weights(rule, other):
    for x, y in zip(rule.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)


def fit(optimizer, steps=3):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
    model.compile(optimizer, "mse")
    x = np.random.default_rng(0).normal(size=[8, 2])
    model.fit(x, x[:, ::-1], epochs=steps, verbose=0)
    return model.get_weights()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [LearnedOptimizer, LSTMOptimizer])
def test_a_preset_trains_like_the_rule_that_was_saved(kind, tmp_path):
    optimizer = trained_lstm()
    optimizer.save_to_preset(tmp_path / "mine")
    twin = kind.from_preset(str(tmp_path / "mine"))
    assert isinstance(twin, kind)
    for x, y in zip(fit(twin), fit(trained_lstm()), strict=True):
        np.testing.assert_array_equal(x, y)


def test_arguments_of_the_constructor_are_passed_on(tmp_path):
    trained_lstm().save_to_preset(tmp_path)
    optimizer = LSTMOptimizer.from_preset(
        str(tmp_path), learning_rate=0.5, clipnorm=2.0
    )
    assert float(optimizer.learning_rate) == 0.5
    assert optimizer.clipnorm == 2.0


def test_arguments_of_the_rule_override_the_preset(tmp_path):
    trained_lstm().save_to_preset(tmp_path)
    optimizer = LSTMOptimizer.from_preset(str(tmp_path), output_scale=0.5)
    assert optimizer.rule.output_scale == 0.5


def test_sizes_cannot_be_overridden(tmp_path):
    trained_lstm().save_to_preset(tmp_path)
    with pytest.raises(ValueError, match=r"other sizes.*'units': \(5,\)"):
        LSTMOptimizer.from_preset(str(tmp_path), units=(5,), seed=1)


def test_another_kind_of_rule_is_refused(tmp_path):
    presets.save_rule(keras_meta.MetaLearnerLSTM(2), tmp_path)
    with pytest.raises(ValueError, match="CoordinatewiseLSTM.*MetaLearnerLSTM"):
        LSTMOptimizer.from_preset(str(tmp_path))


def test_an_unknown_preset_is_refused_with_a_list_of_presets():
    with pytest.raises(ValueError, match="`preset` must be one of .*'none'"):
        LSTMOptimizer.from_preset("none")


def test_weights_of_another_rule_are_refused(tmp_path):
    trained_lstm().save_to_preset(tmp_path)
    rewrite(tmp_path, {"units": [4, 4]})
    with pytest.raises(ValueError, match="holds weights of shapes"):
        LSTMOptimizer.from_preset(str(tmp_path))


@pytest.mark.parametrize("learn", [None, "scalar"])
def test_rules_that_fit_only_one_model_are_not_saved(learn, tmp_path):
    rule = keras_meta.GradientDescent(0.1, learn)
    rule.attach([keras.Variable([0.0])], 1)
    with pytest.raises(ValueError, match=r"fit any model.*model\.keras"):
        LearnedOptimizer(rule).save_to_preset(tmp_path)


@pytest.mark.slow_variants(
    "hierarchical_mixture",
    "lstm_cifar10",
    "lstm_quadratic",
)
@pytest.mark.parametrize("name", presets.preset_names())
def test_a_shipped_preset_has_a_card_and_trains(name):
    card = (SHIPPED / name / "card.md").read_text()
    for heading in ("Trained on", "Command", "Curve", "Licence"):
        assert f"## {heading}" in card
    size = sum(f.stat().st_size for f in (SHIPPED / name).iterdir())
    assert size < 500_000
    rng = np.random.default_rng(0)
    centers = rng.normal(size=[3, 8])
    y = rng.integers(3, size=[256])
    x = centers[y] + 0.5 * rng.normal(size=[256, 8])
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input([8]),
            keras.layers.Dense(10, "sigmoid"),
            keras.layers.Dense(3, "softmax"),
        ]
    )
    model.compile(
        LearnedOptimizer.from_preset(name), "sparse_categorical_crossentropy"
    )
    history = model.fit(x, y, epochs=15, verbose=0).history["loss"]
    assert np.isfinite(history).all()
    assert history[-1] < 0.6 * history[0]


def test_presets_are_part_of_the_package():
    names = presets.preset_names()
    assert set(names) == {
        "hierarchical_mixture",
        "lstm_cifar10",
        "lstm_mnist",
        "lstm_quadratic",
    }
    for name in names:
        assert (SHIPPED / name / "weights.npz").is_file()
        assert (SHIPPED / name / "card.md").is_file()


@pytest.mark.slow
def test_the_hierarchical_preset_trains_a_network_it_never_saw():
    rng = np.random.default_rng(0)
    x = rng.normal(size=[64, 6, 6, 1]).astype("float32")
    y = (x[:, 2:4, 2:4].mean(axis=(1, 2, 3)) > 0).astype("int32")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input([6, 6, 1]),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    model.compile(
        HierarchicalRNNOptimizer.from_preset("hierarchical_mixture"),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    logs = model.fit(x, y, batch_size=32, epochs=50, verbose=0).history
    assert logs["loss"][-1] < 0.5 * logs["loss"][0]


@keras.saving.register_keras_serializable("keras_meta_tests")
class Halved(keras_meta.CoordinatewiseLSTM):
    """A rule that halves the moves."""

    def update(self, params, grads, state):
        moved, state = super().update(params, grads, state)
        return [(p + m) / 2 for p, m in zip(params, moved, strict=True)], state


@pytest.mark.parametrize(
    ("kind", "options"),
    [(Halved, {}), (keras_meta.CoordinatewiseLSTM, {"dtype": "float64"})],
)
def test_a_rule_that_the_constructor_cannot_make_is_refused(
    kind, options, tmp_path
):
    presets.save_rule(kind([4], seed=0, **options), tmp_path)
    with pytest.raises(ValueError, match="exactly a CoordinatewiseLSTM.*Use"):
        LSTMOptimizer.from_preset(str(tmp_path))


def small_rule(value=0.5):
    rule = keras_meta.CoordinatewiseLSTM([1], preprocessing=None)
    rule.set_weights([np.full_like(w, value) for w in rule.get_weights()])
    return rule


@pytest.mark.slow_variants("weights.npz")
@pytest.mark.parametrize("name", ["rule.json", "weights.npz"])
def test_damage_to_any_byte_of_a_preset_is_noticed(name, tmp_path):
    presets.save_rule(small_rule(), tmp_path)
    path = tmp_path / name
    whole = path.read_bytes()
    flipped = [
        whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :]
        for i in range(len(whole))
    ]
    cut = [whole[:size] for size in range(0, len(whole), 16)]
    for damaged in [*flipped, *cut, whole + b"\n"]:
        path.write_bytes(damaged)
        with pytest.raises(
            durable_files.DamagedFile,
            match=f"{path} is damaged.*Save the rule again",
        ):
            presets.load_rule(tmp_path)


def test_missing_weights_are_named(tmp_path):
    presets.save_rule(small_rule(), tmp_path)
    (tmp_path / "weights.npz").unlink()
    with pytest.raises(FileNotFoundError, match="weights.npz is missing.*Save"):
        presets.load_rule(tmp_path)


def test_a_description_without_a_checksum_is_refused(tmp_path):
    presets.save_rule(small_rule(), tmp_path)
    path = tmp_path / "rule.json"
    record = json.loads(path.read_text())
    del record["sha256"]
    path.write_text(json.dumps(record))
    with pytest.raises(durable_files.DamagedFile, match="has no checksum"):
        presets.load_rule(tmp_path)


@pytest.mark.slow
def test_a_preset_is_the_old_or_the_new_one_wherever_its_writer_stops(
    tmp_path, monkeypatch
):
    old, new = small_rule(0.5), small_rule(0.25)
    folder = tmp_path / "preset"
    presets.save_rule(old, folder)
    states = []
    replace = pathlib.Path.replace

    def look_and_replace(path, target):
        states.append(tmp_path / f"before_{len(states)}")
        shutil.copytree(folder, states[-1])
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "replace", look_and_replace)
        presets.save_rule(new, folder)
    assert len(states) == 3
    for state, expected in zip(states, [old, old, new], strict=True):
        assert len(os.listdir(state)) > 2
        assert_same_weights(presets.load_rule(state), expected)
        presets.save_rule(new, state)
        assert sorted(os.listdir(state)) == ["rule.json", "weights.npz"]
        assert_same_weights(presets.load_rule(state), new)


def test_a_full_disk_leaves_the_old_preset(tmp_path, monkeypatch):
    presets.save_rule(small_rule(0.5), tmp_path)
    write = pathlib.Path.write_bytes

    def write_half(path, content):
        write(path, content[: len(content) // 2])
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "write_bytes", write_half)
        with pytest.raises(OSError, match="No space left"):
            presets.save_rule(small_rule(0.25), tmp_path)
    assert_same_weights(presets.load_rule(tmp_path), small_rule(0.5))


@pytest.mark.parametrize("folder", [None, 1, "", np.array(["a", "b"])])
def test_refuses_values_that_are_not_folders(folder):
    with pytest.raises(ValueError, match="`folder` must be the path"):
        presets.save_rule(keras_meta.CoordinatewiseLSTM([2]), folder)


def test_other_files_in_the_folder_stay(tmp_path):
    names = ["movie.part", "new-weights-of-mine.npz", "weights-1.npz"]
    for name in names:
        (tmp_path / name).touch()
    presets.save_rule(small_rule(), tmp_path)
    assert set(names) < set(os.listdir(tmp_path))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value, tmp_path):
    rule = small_rule()
    presets.save_rule(rule, tmp_path)
    rule.readout.bias.assign([value])
    with pytest.raises(ValueError, match="readout_bias with NaN or inf"):
        presets.save_rule(rule, tmp_path)
    assert_same_weights(presets.load_rule(tmp_path), small_rule())
    rewrite(tmp_path, weights=archive(*rule.get_weights()))
    with pytest.raises(ValueError, match=r"npz, array 4 with NaN or infinite"):
        presets.load_rule(tmp_path)


def test_a_preset_takes_precedence_over_a_folder_of_its_name(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shipped = presets.load_rule("lstm_mnist")
    presets.save_rule(small_rule(), "./lstm_mnist")
    with pytest.warns(UserWarning, match=r"ships with the package.*\./lstm"):
        assert_same_weights(presets.load_rule("lstm_mnist"), shipped)
    for path in ("./lstm_mnist", pathlib.Path("lstm_mnist")):
        assert_same_weights(presets.load_rule(path), small_rule())
    with pytest.raises(
        ValueError, match=r"must not be the name.*\./lstm_mnist"
    ):
        presets.save_rule(small_rule(), "lstm_mnist")


@keras.saving.register_keras_serializable("keras_meta_tests")
class Recorder(keras.layers.Layer):
    """A registered class that is not a rule."""

    made = []

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.made.append(self)


RECORDER = {
    "module": "tests",
    "class_name": "Recorder",
    "registered_name": "keras_meta_tests>Recorder",
    "config": {},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (RECORDER, "must describe an update rule.*keras_meta_tests>Recorder"),
        ({"arguments": {"dtype": RECORDER}}, "class_name='Recorder'"),
        ({"arguments": {"units": [[RECORDER]]}}, "class_name='Recorder'"),
        ({"class_name": "__lambda__"}, "class_name='__lambda__'"),
        ({"registered_name": "gone>Rule"}, "'gone>Rule'.*Decorate"),
        ({"registered_name": None}, "'registered_name' must be a str"),
        ({"config": [1, 2]}, r"'config' must be a dict.*config=\[1, 2\]"),
        ({"arguments": {"colour": 1}}, "CoordinatewiseLSTM does not.*'colour'"),
        (
            {"arguments": {"output_scale": -1}},
            "does not accept: `output_scale`",
        ),
        (
            {"arguments": {"output_scale": np.inf}},
            "finite numbers. Received: inf",
        ),
        ({"weights_sha256": "../../x"}, "64 hexadecimal digits.*'../../x'"),
    ],
)
def test_a_description_is_checked_before_a_rule_is_built(
    changes, message, tmp_path
):
    presets.save_rule(small_rule(), tmp_path)
    rewrite(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"rule.json.*{message}"):
        presets.load_rule(tmp_path)
    assert not Recorder.made


def declaring(header):
    """An array that is declared but missing."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        with file.open("arr_0.npy", "w") as member:
            np.lib.format.write_array_header_1_0(member, header)
    return buffer.getvalue()


HUGE = {"shape": (2**50,), "fortran_order": False, "descr": "<f4"}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (
            declaring(HUGE),
            r"holds weights of shapes \[\(\(1125899906842624",
        ),
        (archive(np.array([Recorder], object)), "holds weights of .*'object'"),
        (archive(np.zeros([1, 4], "float64")), "holds weights of .*'float64'"),
        (b"no archive", "is not a file of weights that `save_to_preset`"),
    ],
)
def test_weights_are_checked_before_memory_is_allocated(
    weights, message, tmp_path
):
    presets.save_rule(small_rule(), tmp_path)
    rewrite(tmp_path, weights=weights)
    with pytest.raises(ValueError, match=f"weights.npz {message}"):
        presets.load_rule(tmp_path)


def test_a_rule_larger_than_its_weights_allocates_no_memory(tmp_path):
    presets.save_rule(small_rule(), tmp_path)
    rewrite(tmp_path, {"units": [10**6, 10**6]})
    with pytest.raises(ValueError, match="holds weights of shapes"):
        presets.load_rule(tmp_path)


class Unregistered(keras_meta.CoordinatewiseLSTM):
    pass


def test_a_rule_that_could_not_be_loaded_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="Unregistered.*Decorate a class"):
        presets.save_rule(Unregistered([1]), tmp_path / "preset")
    assert not (tmp_path / "preset").exists()


@pytest.mark.slow_variants("bfloat16", "float64")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_of_any_precision_round_trip(dtype, tmp_path):
    rule = keras_meta.HierarchicalRNN([2, 2, 2], dtype=dtype)
    presets.save_rule(rule, tmp_path)
    read = presets.load_rule(tmp_path)
    assert read.weights[0].dtype == dtype
    assert_same_weights(read, rule)
