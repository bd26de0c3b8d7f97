"""Optimizer learners in files."""

import json

import keras
import numpy as np
import pytest

import keras_meta
from keras_meta.problems import batches

from .optimizer_helpers import Valley
from .optimizer_helpers import learner
from .optimizer_helpers import windows

PES = keras_meta.PersistentES(1, sigma=0.1, length=2, seed=3)
LEARNERS = {
    "drawn": lambda: {"meta_gradient": windows(2), "objective": "log_ratio"},
    "kept": lambda: {
        "rule": keras_meta.Momentum(0.05, "layer", dtype="float64"),
        "meta_gradient": PES,
        "start": keras_meta.Kept(2, groups=2),
        "step_weights": [1, 0, 2, 1],
        "tolerated_divergences": 1,
    },
    "turns": lambda: {
        "problem": [
            Valley(),
            keras_meta.problems.RandomScaling(Valley(bends=2.0), per="tensor"),
        ],
        "evaluation_steps": 3,
    },
}


def make(name):
    adam = keras.optimizers.Adam(0.01)
    return learner(optimizer=adam, **LEARNERS[name]())


def assert_same(made, loaded):
    for x, y in zip(made.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(x, y)
    variables = made.optimizer.variables, loaded.optimizer.variables
    for x, y in zip(*variables, strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("name", LEARNERS)
def test_the_config_makes_the_same_learner(name):
    made = make(name)
    made.steps = 2
    config = json.loads(json.dumps(made.get_config()))
    copy = keras_meta.OptimizerLearner.from_config(config)
    assert json.loads(json.dumps(copy.get_config())) == config
    assert copy.steps == 2
    copy.steps = 4
    assert copy.start == made.start
    assert copy.meta_gradient == made.meta_gradient


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_training_goes_on_from_a_file(name, tmp_path):
    path = tmp_path / "learner.keras"
    made = make(name)
    made.fit(
        batches(2, num_batches=1),
        callbacks=[keras.callbacks.ModelCheckpoint(path)],
        verbose=0,
    )
    loaded = keras.models.load_model(path)
    assert loaded.optimizer.learning_rate == made.optimizer.learning_rate
    assert_same(made, loaded)
    data = batches(2, start=2, num_batches=2)
    expected = made.fit(data, verbose=0).history
    assert loaded.fit(data, verbose=0).history == expected
    assert_same(made, loaded)
    data = batches(3, seed=1, num_batches=1)
    assert made.evaluate(data, verbose=0) == loaded.evaluate(data, verbose=0)


@pytest.mark.slow
def test_a_backup_continues_kept_runs(tmp_path):
    class Interrupted(Exception):
        """Stands for the end of a process."""

    def interrupt(epoch, logs):
        if epoch == 2:
            raise Interrupted

    def fit(made, *callbacks):
        # One batch, so that epochs do not depend on where they begin.
        made.fit(
            batches(2, num_batches=1),
            epochs=5,
            callbacks=list(callbacks),
            verbose=0,
        )

    whole, first, second = (make("kept") for _ in range(3))
    fit(whole)

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    stop = keras.callbacks.LambdaCallback(on_epoch_begin=interrupt)
    with pytest.raises(Interrupted):
        fit(first, backup(), stop)
    fit(second, backup())
    assert_same(whole, second)


def network(**options):
    """Has state that does not train, and weights that are not drawn."""
    inputs = {"a": keras.Input([2], name="a"), "b": keras.Input([1], name="b")}
    layers = keras.layers
    features = layers.Concatenate()([inputs["a"], inputs["b"]])
    features = layers.BatchNormalization(**options)(features)
    frozen = layers.Dense(3, "tanh", trainable=False)(features)
    outputs = layers.Dense(2, kernel_regularizer="l2")(frozen)
    return keras.Model(inputs, outputs)


def model_problem():
    x = {
        "a": np.arange(12).reshape([6, 2]).astype("uint8"),
        "b": np.linspace(-1, 1, 6).reshape([6, 1]).astype("float32"),
    }
    y = np.array([0, 1, 1, 0, 1, 0])
    model = network()
    # Other values than a new model has.
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1, w.shape) for w in model.weights])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return keras_meta.problems.ModelProblem(
        model, (x, y), loss, batch_size=4, initializer="he_normal"
    )


def copied(problem, folder):
    """Returns a problem that was made from config and assets."""
    config = json.loads(
        json.dumps(keras.saving.serialize_keras_object(problem))
    )
    copy = keras.saving.deserialize_keras_object(config)
    problem.save_assets(str(folder))
    copy.load_assets(str(folder))
    return copy


def losses_of(problem):
    params, data = problem.draw(seed=1, index=2, instances=3)
    return problem.losses(params, data, step=4).numpy()


@pytest.mark.parametrize(
    "problem",
    [
        keras_meta.problems.Quadratic(3, 2, entries="uniform", start=0.5),
        keras_meta.problems.RandomScaling(
            keras_meta.problems.RandomScaling(
                keras_meta.problems.Quadratic(2), low=-1.0, high=2.0
            ),
            per="tensor",
        ),
    ],
    ids=["quadratic", "scaled"],
)
def test_a_config_makes_the_same_problem(problem, tmp_path):
    copy = copied(problem, tmp_path)
    assert copy.get_config() == problem.get_config()
    np.testing.assert_array_equal(losses_of(problem), losses_of(copy))


def test_a_model_problem_is_saved_with_data_and_weights(tmp_path):
    problem = model_problem()
    scaled = keras_meta.problems.RandomScaling(problem, per="instance")
    copy = copied(scaled, tmp_path)
    for a, b in (
        (problem._x["a"], copy.problem._x["a"]),
        (problem._x["b"], copy.problem._x["b"]),
        (problem._y, copy.problem._y),
    ):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(losses_of(scaled), losses_of(copy))


def test_a_model_problem_of_texts_is_saved_with_its_vocabulary(tmp_path):
    words = np.array([["cat"], ["dog"], ["cow"], ["cat"]])
    lookup = keras.layers.StringLookup(output_mode="one_hot")
    lookup.adapt(words)
    model = keras.Sequential(
        [keras.Input([1], dtype="string"), lookup, keras.layers.Dense(1)]
    )
    data = words, np.arange(4.0, dtype="float32")[:, np.newaxis]
    problem = keras_meta.problems.ModelProblem(model, data, "mse", batch_size=3)
    copy = copied(problem, tmp_path)
    np.testing.assert_array_equal(problem._x, copy._x)
    np.testing.assert_array_equal(losses_of(problem), losses_of(copy))


def test_a_model_problem_without_data_says_where_they_are():
    config = keras.saving.serialize_keras_object(model_problem())
    copy = keras.saving.deserialize_keras_object(config)
    with pytest.raises(RuntimeError, match="no data.*load_model"):
        losses_of(copy)


@pytest.mark.slow
def test_a_file_holds_the_data_of_several_problems(tmp_path):
    path = tmp_path / "learner.keras"
    rule = keras_meta.CoordinatewiseLSTM([2], seed=0)
    made = keras_meta.OptimizerLearner(
        rule, [model_problem(), model_problem()], steps=2
    )
    made.problems[1].model.set_weights(
        [2 * w for w in made.problems[1].model.get_weights()]
    )
    made.compile("adam", jit_compile=False)
    made.save(path)
    loaded = keras.models.load_model(path)
    for start in (0, 2):
        data = batches(2, start=start, num_batches=1)
        expected = made.evaluate(data, verbose=0)
        assert loaded.evaluate(data, verbose=0) == expected


@pytest.mark.slow
def test_a_file_of_kept_runs_on_a_model(tmp_path):
    path = tmp_path / "learner.keras"
    made = keras_meta.OptimizerLearner(
        keras_meta.CoordinatewiseLSTM([2], seed=0),
        model_problem(),
        steps=4,
        meta_gradient=PES,
        start=keras_meta.Kept(2, groups=2),
    )
    made.compile("adam", jit_compile=False)
    made.fit(batches(2, num_batches=3), verbose=0)
    made.save(path)
    loaded = keras.models.load_model(path)
    for resumed in (made, loaded):
        resumed.fit(batches(2, start=6, num_batches=3), verbose=0)
    assert_same(made, loaded)
