"""Learners survive being saved, with all that `compile` was given."""

import keras
import numpy as np
import pytest

import keras_meta

from .helpers import assert_same_weights
from .helpers import batch
from .helpers import classification
from .helpers import compiled
from .helpers import crossentropy
from .helpers import dataset
from .helpers import have_moved
from .helpers import mlp
from .helpers import normalized_mlp
from .helpers import regression
from .helpers import weights


@keras.saving.register_keras_serializable("keras_meta_tests")
def is_bias(variable):
    return variable.name == "bias"


@keras.saving.register_keras_serializable("keras_meta_tests")
def fourth_power(y_true, y_pred):
    return keras.ops.mean((y_true - y_pred) ** 4, axis=-1)


def _layer_step_rates():
    return keras_meta.GradientDescent(0.1, learn="layer_step", clip_norm=2.0)


_LEARNERS = {
    "maml": lambda: keras_meta.MAML(
        normalized_mlp(), _layer_step_rates(), 2, step_weights="uniform"
    ),
    "anil": lambda: keras_meta.ANIL(mlp(), keras_meta.Momentum(0.1), 2),
    "meta_sgd": lambda: keras_meta.MetaSGD(mlp(), steps=2, seed=1),
    "reptile": lambda: keras_meta.Reptile(mlp(), steps=2),
}

each_learner = pytest.mark.parametrize("name", _LEARNERS)


def _trained(name):
    learner = compiled(
        _LEARNERS[name](), keras.optimizers.Adam(0.01), metrics=["mae"]
    )
    learner.fit(dataset(regression(3)), verbose=0)
    return learner


@pytest.mark.slow
@each_learner
def test_training_continues_from_a_keras_file(name, tmp_path):
    learner = _trained(name)
    path = tmp_path / "learner.keras"
    learner.save(path)
    loaded = keras.saving.load_model(path)
    assert type(loaded) is type(learner)
    assert_same_weights(loaded, learner)
    assert_same_weights(
        [v.numpy() for v in loaded.optimizer.variables],
        [v.numpy() for v in learner.optimizer.variables],
    )
    data = regression(2, seed=5)
    x, _ = batch(data, 0)
    np.testing.assert_array_equal(loaded(x), learner(x))
    before = weights(learner)
    histories = [
        model.fit(dataset(data), verbose=0).history
        for model in (learner, loaded)
    ]
    assert histories[0] == histories[1]
    assert_same_weights(loaded, learner)
    assert have_moved(before, weights(learner))


@pytest.mark.slow
def test_the_draws_of_reptile_continue_from_a_keras_file(tmp_path):
    learner = compiled(keras_meta.Reptile(mlp(), 0.1, 2, batch_size=2, seed=1))
    learner.fit(dataset(regression(3)), verbose=0)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    for model in (learner, loaded):
        model.fit(dataset(regression(2, seed=5)), verbose=0)
    assert_same_weights(loaded, learner)


@each_learner
def test_weights_alone_are_restored(name, tmp_path):
    learner = _LEARNERS[name]()
    for variable in learner.variables:
        if variable.dtype == "float32":
            variable.assign(keras.random.normal(variable.shape))
    path = tmp_path / "learner.weights.h5"
    learner.save_weights(path)
    other = _LEARNERS[name]()
    assert have_moved(weights(other), weights(learner))
    other.load_weights(path)
    assert_same_weights(other, learner)


@each_learner
def test_a_config_makes_the_same_learner(name):
    learner = _LEARNERS[name]()
    config = learner.get_config()
    other = type(learner).from_config(config)
    assert other.get_config() == config
    assert [w.shape for w in other.weights] == [
        w.shape for w in learner.weights
    ]


_ARGUMENTS = {
    "steps": 3,
    "evaluation_steps": 0,
    "adapt": ["norm"],
    "meta_gradient": "first_order",
    "batch_statistics": "support",
    "step_weights": [0.0, 0.25, 0.75],
    "name": "quick_learner",
}


def test_every_argument_of_maml_survives_its_config():
    rule = keras_meta.Momentum(0.05, "layer", momentum=0.5, nesterov=True)
    learner = keras_meta.MAML(
        normalized_mlp(), rule, inner_loss=fourth_power, **_ARGUMENTS
    )
    other = keras_meta.MAML.from_config(learner.get_config())
    assert other.name == "quick_learner"
    assert (other.steps, other.evaluation_steps) == (3, 0)
    assert other.meta_gradient == keras_meta.FirstOrder()
    assert other.batch_statistics == "support"
    assert other.inner_loss is fourth_power
    np.testing.assert_array_equal(other.step_weights, [0.0, 0.25, 0.75])
    other_rule = other.update_rule
    assert isinstance(other_rule, keras_meta.Momentum)
    assert (other_rule.learning_rate, other_rule.learn) == (0.05, "layer")
    assert (other_rule.momentum, other_rule.nesterov) == (0.5, True)
    assert other_rule.rates[0].shape == (1,)


def test_every_argument_of_reptile_survives_its_config():
    rule = keras_meta.Adam(0.02, beta_1=0.5, beta_2=0.9, epsilon=0.1)
    learner = keras_meta.Reptile(
        mlp(), rule, 3, evaluation_steps=7, batch_size=4, seed=9
    )
    other = keras_meta.Reptile.from_config(learner.get_config())
    assert (other.steps, other.evaluation_steps) == (3, 7)
    assert (other.batch_size, other.seed) == (4, 9)
    rule = other.update_rule
    assert (rule.learning_rate, rule.beta_1) == (0.02, 0.5)
    assert (rule.beta_2, rule.epsilon) == (0.9, 0.1)


def test_every_argument_of_meta_sgd_survives_its_config():
    rate = keras.initializers.RandomUniform(0.1, 0.2, seed=4)
    learner = keras_meta.MetaSGD(mlp(), rate, 2, meta_gradient="first_order")
    other = keras_meta.MetaSGD.from_config(learner.get_config())
    assert other.steps == 2
    assert other.meta_gradient == keras_meta.FirstOrder()
    assert_same_weights(
        [r.numpy() for r in other.update_rule.rates],
        [r.numpy() for r in learner.update_rule.rates],
    )
    number = keras_meta.MetaSGD(mlp(), 0.25)
    other = keras_meta.MetaSGD.from_config(number.get_config())
    assert other.get_config()["learning_rate"] == 0.25


@pytest.mark.slow_variants(
    "adapt3-paths3", "all-paths0", "head-paths1", "normalization-paths2"
)
@pytest.mark.parametrize(
    ("adapt", "paths"),
    [
        ("all", ["kernel", "bias", "gamma", "beta", "kernel", "bias"]),
        ("head", ["kernel", "bias"]),
        ("normalization", ["gamma", "beta"]),
        (["norm"], ["gamma", "beta"]),
        (is_bias, ["bias", "bias"]),
    ],
)
def test_what_adapts_survives_a_keras_file(adapt, paths, tmp_path):
    learner = compiled(keras_meta.MAML(normalized_mlp(), adapt=adapt))
    path = tmp_path / "learner.keras"
    learner.save(path)
    loaded = keras.saving.load_model(path)
    x, _ = regression()
    np.testing.assert_array_equal(loaded(x), learner(x))
    rates = keras_meta.MAML.from_config(
        {
            **loaded.get_config(),
            "update_rule": keras_meta.GradientDescent(learn="parameter"),
        }
    ).update_rule.rates
    assert [r.name for r in rates] == [f"rate_{p}" for p in paths]


def test_layers_to_adapt_may_be_given_as_layers(tmp_path):
    model = normalized_mlp()
    learner = compiled(keras_meta.MAML(model, adapt=[model.layers[1]]))
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    assert loaded.get_config()["adapt"] == ["norm"]


@pytest.mark.parametrize(
    "inner_loss",
    ["sparse_categorical_crossentropy", crossentropy(), None],
    ids=["name", "object", "compiled"],
)
def test_the_inner_loss_survives_a_keras_file(inner_loss, tmp_path):
    learner = compiled(
        keras_meta.MAML(mlp(3), 0.1, inner_loss=inner_loss),
        loss=crossentropy(),
    )
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    assert type(loaded.inner_loss) is type(inner_loss)
    x, _ = classification()
    np.testing.assert_array_equal(loaded(x), learner(x))


def test_a_learner_can_be_cloned():
    learner = keras_meta.MAML(mlp(), 0.1, 2)
    other = keras.models.clone_model(learner)
    assert other is not learner
    assert other.get_config() == learner.get_config()
