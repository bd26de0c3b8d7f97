"""Presets: written and read, and those that ship with the package."""

import json
import pathlib

import keras
import numpy as np
import pytest

import keras_meta
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


def fit(optimizer, steps=3):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(2)])
    model.compile(optimizer, "mse")
    x = np.random.default_rng(0).normal(size=[8, 2])
    model.fit(x, x[:, ::-1], epochs=steps, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize("kind", [LearnedOptimizer, LSTMOptimizer])
def test_a_preset_trains_as_what_was_saved(kind, tmp_path):
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


def test_arguments_of_the_rule_take_the_place_of_the_presets(tmp_path):
    trained_lstm().save_to_preset(tmp_path)
    optimizer = LSTMOptimizer.from_preset(str(tmp_path), output_scale=0.5)
    assert optimizer.rule.output_scale == 0.5


def test_sizes_are_those_of_the_preset(tmp_path):
    trained_lstm().save_to_preset(tmp_path)
    with pytest.raises(ValueError, match=r"other sizes.*'units': \(5,\)"):
        LSTMOptimizer.from_preset(str(tmp_path), units=(5,), seed=1)


def test_another_kind_of_rule_is_refused(tmp_path):
    presets.save_rule(keras_meta.MetaLearnerLSTM(2), tmp_path)
    with pytest.raises(ValueError, match="CoordinatewiseLSTM.*MetaLearnerLSTM"):
        LSTMOptimizer.from_preset(str(tmp_path))


def test_an_unknown_preset_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="`preset` must be one of .*'none'"):
        LSTMOptimizer.from_preset("none")


def test_weights_of_another_rule_are_refused(tmp_path):
    trained_lstm().save_to_preset(tmp_path)
    config = json.loads((tmp_path / "rule.json").read_text())
    config["config"]["units"] = [4, 4]
    (tmp_path / "rule.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="holds weights of the shapes"):
        LSTMOptimizer.from_preset(str(tmp_path))


@pytest.mark.parametrize("learn", [None, "scalar"])
def test_what_belongs_to_one_model_is_not_saved(learn, tmp_path):
    rule = keras_meta.GradientDescent(0.1, learn)
    rule.attach([keras.Variable([0.0])], 1)
    with pytest.raises(ValueError, match=r"fits any model.*model\.keras"):
        LearnedOptimizer(rule).save_to_preset(tmp_path)


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
    """Half the moves."""

    def update(self, params, grads, state):
        moved, state = super().update(params, grads, state)
        return [(p + m) / 2 for p, m in zip(params, moved, strict=True)], state


@pytest.mark.parametrize(
    ("kind", "options"),
    [(Halved, {}), (keras_meta.CoordinatewiseLSTM, {"dtype": "float64"})],
)
def test_a_rule_that_arguments_do_not_make_is_refused(kind, options, tmp_path):
    presets.save_rule(kind([4], seed=0, **options), tmp_path)
    with pytest.raises(ValueError, match="CoordinatewiseLSTM itself.*Use"):
        LSTMOptimizer.from_preset(str(tmp_path))
