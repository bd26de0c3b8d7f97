"""Bad arguments are refused at once, by name."""

import re

import keras
import numpy as np
import pytest

import keras_meta
from keras_meta.episodes import sinusoids
from keras_meta.optimizers import LSTMOptimizer


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (keras_meta.CoordinatewiseLSTM, "output_scale"),
        (keras_meta.CoordinatewiseLSTM, "preprocessing"),
        (keras_meta.CoordinatewiseLSTM, "seed"),
        (keras_meta.HierarchicalRNN, "initial_rate"),
        (keras_meta.HierarchicalRNN, "time_scales"),
        (keras_meta.HierarchicalRNN, "seed"),
        (keras_meta.LearnedHyperparameters, "learning_rate"),
        (keras_meta.LearnedHyperparameters, "momentum"),
        (keras_meta.MetaLearnerLSTM, "preprocessing"),
        (keras_meta.MetaLearnerLSTM, "units"),
        (keras_meta.Momentum, "momentum"),
        (keras_meta.GradientDescent, "clip_norm"),
        (keras_meta.GradientDescent, "learning_rate"),
        (keras_meta.RMSprop, "rho"),
        (keras_meta.RMSprop, "epsilon"),
        (keras_meta.Adam, "beta_2"),
        (keras_meta.Adam, "epsilon"),
        (keras_meta.callbacks.AnnealStepWeights, "epochs"),
        (keras_meta.callbacks.SwitchMetaGradient, "meta_gradients"),
        (keras_meta.callbacks.LengthenUnroll, "steps"),
        (keras_meta.problems.batches, "seed"),
    ],
)
@pytest.mark.parametrize("value", ["0.5", [1]])
def test_refuses_values_that_are_not_numbers(make, name, value):
    shown = re.escape(repr(value))
    with pytest.raises(ValueError, match=f"`{name}` must .*{shown}"):
        make(**{name: value})


@pytest.mark.parametrize(
    ("make", "name", "value"),
    [
        (keras_meta.CoordinatewiseLSTM, "units", np.array(2)),
        (keras_meta.CoordinatewiseLSTM, "units", np.int8(-3)),
        (keras_meta.CoordinatewiseLSTM, "units", [2**31]),
        (keras_meta.CoordinatewiseLSTM, "output_scale", 1e300),
        (keras_meta.HierarchicalRNN, "time_scales", 128),
        (keras_meta.GradientDescent, "learning_rate", np.float16("inf")),
        (keras_meta.GradientDescent, "learn", [10**5000]),
        (keras_meta.LearnedHyperparameters, "weight_decay", 10**400),
        (keras_meta.MetaLearnerLSTM, "seed", 2**62),
        (LSTMOptimizer, "learning_rate", float("nan")),
    ],
)
def test_numbers_out_of_range(make, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: "):
        make(**{name: value})


@pytest.mark.parametrize("number", [np.float32(0.25), np.int64(1), 1])
def test_accepts_numpy_numbers(number):
    assert keras_meta.GradientDescent(number).learning_rate == float(number)
    assert keras_meta.RMSprop(epsilon=number).epsilon == number


@pytest.mark.parametrize("value", ["1", 1.5, None, True])
@pytest.mark.parametrize("name", ["seed", "start"])
def test_seeds_and_starts_of_episodes(name, value):
    sizes = {"shots": 1, "queries": 1, "tasks": 1}
    with pytest.raises(
        ValueError, match=f"`{name}` must be an integer.*Received"
    ):
        sinusoids(**sizes, **{name: value})


def test_annealing_refuses_zero_epochs():
    with pytest.raises(ValueError, match="`epochs` must be a positive integer"):
        keras_meta.callbacks.AnnealStepWeights(0)


@pytest.mark.parametrize("preset", [None, 3])
def test_presets_refuse_names_that_are_not_strings(preset):
    with pytest.raises(TypeError, match="`preset`.*'lstm_mnist'.*Received"):
        LSTMOptimizer.from_preset(preset)


@pytest.mark.parametrize(
    "rule",
    [
        keras_meta.CoordinatewiseLSTM,
        keras_meta.HierarchicalRNN,
        keras_meta.MetaLearnerLSTM,
    ],
)
def test_numpy_and_python_seeds_draw_the_same_numbers(rule):
    mine, other = rule(seed=np.int64(3)), rule(seed=3)
    for a, b in zip(mine.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_reptile_accepts_numpy_numbers(tmp_path):
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    learner = keras_meta.Reptile(
        model,
        steps=np.int64(3),
        batch_size=np.int64(2),
        seed=np.int32(1),
        inner_loss="mse",
    )
    learner.compile("sgd", "mse")
    x, y = np.ones([4, 3, 2], "float32"), np.ones([4, 3, 1], "float32")
    inputs = {"support_x": x, "support_y": y, "query_x": x}
    learner.fit(inputs, y, verbose=0)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    assert (loaded.steps, loaded.batch_size, loaded.seed) == (3, 2, 1)
