"""Learning what training depends on."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.outer import example_data
from tests.outer.tuners import fit
from tests.outer.tuners import gradients
from tests.outer.tuners import linear_data
from tests.outer.tuners import linear_model
from tests.outer.tuners import tuner_of

DATA, VALIDATION = linear_data(), linear_data(8, seed=1)


@keras.saving.register_keras_serializable("tests")
class Smoothed(keras.losses.Loss):
    """A cross-entropy of two classes with learned label smoothing."""

    def __init__(self, smoothing, **kwargs):
        super().__init__(**kwargs)
        self.smoothing = smoothing
        self.hyperparameters = [smoothing]

    def call(self, y_true, y_pred):
        share = self.smoothing()
        labels = y_true * (1 - share) + share / 2
        return keras.ops.binary_crossentropy(labels, y_pred, from_logits=True)

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {**super().get_config(), "smoothing": serialize(self.smoothing)}

    @classmethod
    def from_config(cls, config):
        config["smoothing"] = keras.saving.deserialize_keras_object(
            config["smoothing"]
        )
        return cls(**config)


@keras.saving.register_keras_serializable("tests")
class Temperature(keras.layers.Layer):
    """Divides by a learned number."""

    def __init__(self, value=2.0, **kwargs):
        super().__init__(**kwargs)
        self.value = keras_meta.Hyperparameter(
            value, minimum=0.1, name="temperature"
        )
        self.built = True

    def call(self, x):
        return x / self.value()


def everything(**options):
    """A learner of two classes that learns all kinds of hyperparameters."""
    layers = keras.layers
    decay = keras_meta.Hyperparameter(0.02, minimum=0.0, name="decay")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input([3]),
            layers.Dense(
                2,
                "tanh",
                kernel_regularizer=keras_meta.LearnedL2(decay),
                bias_regularizer=keras_meta.LearnedL1(0.1, name="sparse"),
                bias_initializer="normal",
            ),
            layers.Dense(1, kernel_regularizer=keras_meta.LearnedL2(decay)),
            Temperature(),
        ]
    )
    smoothing = keras_meta.Hyperparameter(
        0.2, minimum=0.0, maximum=1.0, name="smoothing"
    )
    return tuner_of(
        model,
        keras_meta.LearnedHyperparameters(0.2, momentum=0.5),
        2,
        keras.losses.BinaryCrossentropy(from_logits=True),
        start=options.pop("start", "initial"),
        inner_loss=Smoothed(smoothing),
        example_weights=keras_meta.ExampleWeights(12, name="trust"),
        **options,
    )


def classes(data):
    x, y = data
    return x, (y > 0).astype("float64")


@pytest.mark.slow
def test_gradients_are_central_differences():
    tuner = everything()
    assert set(tuner.hyperparameters) == {
        "decay",
        "sparse",
        "temperature",
        "smoothing",
        "trust",
        *(v.path for v in tuner.update_rule.trainable_variables),
    }
    variables = tuner.trainable_variables
    first = [v.numpy() for v in variables]
    found = gradients(tuner, classes(DATA), classes(VALIDATION))
    tuner.optimizer.learning_rate = 0.0

    def loss(ways, size):
        for v, value, way in zip(variables, first, ways, strict=True):
            v.assign(value + size * way)
        return fit(tuner, classes(DATA), classes(VALIDATION))["loss"]

    # A wrong derivative by any of them shows in a random direction.
    rng = np.random.default_rng(0)
    ways = [rng.normal(size=v.shape) for v in variables]
    slope = sum(np.sum(g * w) for g, w in zip(found, ways, strict=True))
    difference = loss(ways, 1e-4) - loss(ways, -1e-4)
    assert difference / 2e-4 == pytest.approx(slope, rel=1e-6)


@pytest.mark.slow
def test_graphs_compute_what_eager_execution_does():
    eager, graph = everything(start="kept"), everything(start="kept")
    graph.compile(keras.optimizers.SGD(1.0), graph.loss)
    data = classes(DATA), classes(VALIDATION)
    logs = [fit(tuner, *data, 5, 2) for tuner in (eager, graph)]
    assert logs[0] == pytest.approx(logs[1], rel=1e-9)
    for a, b in zip(eager.weights, graph.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.slow_variants("12", "5")
@pytest.mark.parametrize("batch_size", [5, 12])
def test_training_is_that_of_keras(batch_size):
    """With momentum, from window to window, on the batches of `Windows`."""
    regularizer = keras_meta.LearnedL2(0.1)
    start = np.ones([3, 1])
    tuner = tuner_of(
        linear_model(regularizer=regularizer, weights=start),
        keras_meta.Momentum(0.05, momentum=0.5),
        steps=2,
        rate=0.0,
    )
    logs = fit(tuner, DATA, VALIDATION, batch_size, steps=3, validation_freq=1)
    plain = linear_model(regularizer=keras.regularizers.L2(0.1), weights=start)
    plain.compile(keras.optimizers.SGD(0.05, momentum=0.5), "mse")
    examples, _ = example_data.load("data", DATA)
    windows = example_data.Windows(
        examples, examples, batch_size, batch_size, 2, 2, seed=0
    )
    for number in range(3):
        window = windows.window(tf.constant(number, tf.int64))
        for step in range(2):
            if "whole" in window:
                plain.train_on_batch(window["whole"]["x"], window["whole"]["y"])
                continue
            batch = window["by_step"]
            plain.train_on_batch(batch["x"][step], batch["y"][step])
    weights = plain.get_weights()[0]
    # Keras keeps its rate in float32.
    np.testing.assert_allclose(tuner.model.get_weights()[0], weights, rtol=1e-6)
    x, y = VALIDATION
    without = np.mean((x @ weights - y) ** 2)
    assert logs["val_loss"] == pytest.approx(without, rel=1e-6)
    assert tuner.evaluate(x, y, verbose=0) == pytest.approx(without, rel=1e-6)
    np.testing.assert_array_equal(
        tuner.predict(x, verbose=0), tuner.model.predict(x, verbose=0)
    )


@pytest.mark.slow
def test_windows_of_a_kept_run_are_one_long_run():
    def trained(steps, meta_steps, start):
        tuner = tuner_of(
            linear_model(
                regularizer=keras_meta.LearnedL2(0.1), weights=np.ones([3, 1])
            ),
            keras_meta.Adam(0.1),
            steps,
            rate=0.0,
            start=start,
        )
        fit(tuner, DATA, VALIDATION, 5, meta_steps)
        return tuner.model.get_weights()[0]

    np.testing.assert_allclose(
        trained(2, 3, "kept"), trained(6, 1, "initial"), rtol=1e-9
    )
    assert not np.allclose(trained(2, 3, "initial"), trained(2, 3, "kept"))


@pytest.mark.slow
def test_drawn_runs_begin_at_new_weights():
    def losses(seed):
        tuner = tuner_of(
            linear_model(regularizer=keras_meta.LearnedL2(0.1)),
            rate=0.0,
            start="drawn",
            seed=seed,
        )
        return [fit(tuner, DATA, VALIDATION)["loss"] for _ in range(3)]

    first = losses(0)
    assert len({*first}) == 3
    assert first == losses(0)
    assert first != losses(1)


def test_restart_goes_back_to_the_first_weights():
    start = np.ones([3, 1])
    tuner = tuner_of(
        linear_model(regularizer=keras_meta.LearnedL2(0.1), weights=start),
        keras_meta.Momentum(0.05),
        rate=0.0,
    )
    first = fit(tuner, DATA, VALIDATION)
    second = fit(tuner, DATA, VALIDATION)
    assert second["loss"] != first["loss"]
    tuner.restart()
    np.testing.assert_array_equal(tuner.model.get_weights()[0], start)
    assert fit(tuner, DATA, VALIDATION) == first


def test_moving_averages_and_dropout_are_trained():
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input([3]),
            layers.BatchNormalization(momentum=0.5),
            layers.Dropout(0.5, seed=1),
            layers.Dense(1, kernel_regularizer=keras_meta.LearnedL2(0.1)),
        ]
    )
    tuner = tuner_of(model, steps=2)
    fit(tuner, DATA, VALIDATION)
    mean = 0.75 * DATA[0].mean(axis=0)
    np.testing.assert_allclose(model.layers[0].moving_mean, mean, rtol=1e-9)
    seed = model.layers[1].seed_generator.state.numpy()
    assert seed[1] == 2


def test_activity_regularizers_act_in_training():
    strength = keras_meta.LearnedL2(0.1)
    model = keras.Sequential(
        [keras.Input([3]), keras.layers.Dense(1, activity_regularizer=strength)]
    )
    tuner = tuner_of(model)
    (gradient,) = gradients(tuner, DATA, VALIDATION)
    assert gradient != 0


@pytest.mark.slow
def test_a_plain_variable_can_be_a_hyperparameter():
    share = keras.Variable(0.3, name="share")

    def loss(y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_pred - share * y_true), -1)

    tuner = tuner_of(
        linear_model(),
        steps=2,
        inner_loss=loss,
        hyperparameters=[share],
    )
    (gradient,) = gradients(tuner, DATA, VALIDATION)
    assert gradient != 0
    np.testing.assert_allclose(tuner.hyperparameters[share.path], share)
    with pytest.raises(NotImplementedError, match="plain variable.*share"):
        tuner.get_config()


def test_frozen_hyperparameters_stay():
    frozen = keras_meta.LearnedL1(0.2, name="frozen")
    frozen.strength.trainable = False
    model = keras.Sequential(
        [
            keras.Input([3]),
            keras.layers.Dense(
                1,
                kernel_regularizer=keras_meta.LearnedL2(0.1, name="decay"),
                bias_regularizer=frozen,
                bias_initializer="ones",
            ),
        ]
    )
    tuner = tuner_of(model)
    assert len(gradients(tuner, DATA, VALIDATION)) == 1
    assert tuner.hyperparameters["frozen"] == pytest.approx(0.2)
    assert tuner.hyperparameters["decay"] != pytest.approx(0.1)


def test_evolution_strategies_go_the_same_way():
    def found(meta_gradient):
        tuner = tuner_of(
            linear_model(
                regularizer=keras_meta.LearnedL2(0.3), weights=np.ones([3, 1])
            ),
            steps=3,
            start="initial",
            meta_gradient=meta_gradient,
        )
        return gradients(tuner, DATA, VALIDATION)[0]

    # Signs are the only directions of one number, so nothing is random.
    difference = keras_meta.EvolutionStrategies(1, 1e-4, draws="rademacher")
    assert found(difference) == pytest.approx(found("unrolled"), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["kept", "drawn"])
def test_training_continues_from_a_file(start, tmp_path):
    data = classes(DATA), classes(VALIDATION)
    tuner = everything(start=start)
    tuner.compile(keras.optimizers.Adam(0.1), tuner.loss, run_eagerly=True)
    fit(tuner, *data, 5)
    tuner.save(tmp_path / "tuner.keras")
    loaded = keras.models.load_model(tmp_path / "tuner.keras")
    loaded.run_eagerly = True
    kernels = [
        layer.kernel_regularizer.strength
        for layer in loaded.model.layers
        if hasattr(layer, "kernel_regularizer")
    ]
    assert kernels[0] is kernels[1]
    assert fit(loaded, *data, 5) == fit(tuner, *data, 5)
    for a, b in zip(tuner.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(a, b)
    for name, value in tuner.hyperparameters.items():
        np.testing.assert_array_equal(loaded.hyperparameters[name], value)


def test_data_sets_are_arrays():
    x, y = DATA
    arrays = tuner_of(linear_model(regularizer=keras_meta.LearnedL2(0.1)))
    weights = arrays.model.get_weights()[0]
    expected = fit(arrays, DATA, VALIDATION, 5)
    data = tf.data.Dataset.from_tensor_slices(DATA).batch(5)
    tuner = tuner_of(
        linear_model(regularizer=keras_meta.LearnedL2(0.1), weights=weights)
    )
    found = fit(
        tuner,
        [data],
        tf.data.Dataset.from_tensor_slices(VALIDATION).batch(3),
        None,
        validation_batch_size=5,
    )
    assert found == pytest.approx(expected, rel=1e-9)


def test_each_pass_takes_every_example_once():
    x = np.arange(7.0)[:, None]
    examples, _ = example_data.load("data", (x, x))
    windows = example_data.Windows(examples, examples, 3, 2, 7, 7, seed=0)
    # Seven batches of three are three passes.
    index = windows.window(tf.constant(0, tf.int64))["by_step"]["index"]
    passes = np.reshape(index, [3, 7])
    assert [sorted(one) for one in passes] == [[*range(7)]] * 3
    assert len({tuple(one) for one in passes}) == 3
    validation = [
        windows.window(tf.constant(i, tf.int64))["validation"]["index"]
        for i in range(7)
    ]
    passes = np.reshape(validation, [2, 7])
    assert [sorted(one) for one in passes] == [[*range(7)]] * 2


def test_a_window_overlaps_no_other():
    x = np.arange(20.0)[:, None]
    examples, _ = example_data.load("data", (x, x))
    windows = example_data.Windows(examples, examples, 5, 5, 3, 2, seed=0)
    first, second = (
        windows.window(tf.constant(i, tf.int64))["by_step"]["index"].numpy()
        for i in range(2)
    )
    # The third batch is that of the step after the window.
    np.testing.assert_array_equal(first[2], second[0])
    assert sorted([*first[:2].ravel(), *second[:2].ravel()]) == [*range(20)]


def test_weights_of_examples_multiply():
    """A weight of zero removes an example; halves scale the others."""
    x, y = DATA
    given = np.r_[np.zeros(4), np.ones(8)]
    weights = keras_meta.ExampleWeights(12, 0.5)
    options = {"rate": 0.0, "start": "initial"}
    start = np.ones([3, 1])
    weighted = tuner_of(
        linear_model(weights=start), 0.1, example_weights=weights, **options
    )
    fit(weighted, DATA, VALIDATION, sample_weight=given)
    slope = 2 * x[4:].T @ (x[4:] @ start - y[4:]) / 12
    np.testing.assert_allclose(
        weighted.model.get_weights()[0], start - 0.1 * slope / 2, rtol=1e-9
    )
