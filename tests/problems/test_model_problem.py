import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta.problems import ModelProblem

layers = keras.layers


def network(**options):
    return keras.Sequential(
        [
            keras.Input([4, 4, 1]),
            layers.Conv2D(3, 3, activation="tanh"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(2, **options),
        ]
    )


def arrays(examples=20):
    rng = np.random.default_rng(0)
    x = rng.normal(size=[examples, 4, 4, 1]).astype("float32")
    return x, rng.integers(2, size=[examples])


CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def problem(model=None, **options):
    options = {"batch_size": 5, **options}
    return ModelProblem(model or network(), arrays(), CROSSENTROPY, **options)


def examples_of(family, index, step):
    """The minibatch of one instance, drawn alone."""
    _, data = family.draw(0, index, 1)
    x, y = family._examples(data, step, 1)
    return x[0], y[0]


@pytest.mark.slow
def test_losses_are_those_of_the_model_on_each_minibatch():
    family = problem(network(kernel_regularizer=keras.regularizers.L2(0.1)))
    params, data = family.draw(0, 3, 2)
    losses = family.losses(params, data, step=4)
    for i in range(2):
        twin = keras.models.clone_model(family.model)
        for variable, value in zip(
            twin.trainable_variables, params, strict=True
        ):
            variable.assign(value[i])
        x, y = examples_of(family, 3 + i, 4)
        expected = CROSSENTROPY(y, twin(x, training=True)) + sum(twin.losses)
        np.testing.assert_allclose(losses[i], expected, rtol=1e-5)


def test_steps_and_instances_have_different_examples_and_weights():
    family = problem()
    params, _ = family.draw(0, 0, 3)
    kernel = params[0].numpy()
    assert not np.allclose(kernel[0], kernel[1])
    drawn = [
        examples_of(family, i, step)[0].numpy()
        for i, step in ((0, 0), (0, 1), (1, 0))
    ]
    assert not np.array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])
    again = examples_of(family, 0, 0)[0].numpy()
    np.testing.assert_array_equal(drawn[0], again)


def test_an_instance_depends_only_on_its_index():
    family = problem()
    together, _ = family.draw(5, 2, 3)
    alone, _ = family.draw(5, 4, 1)
    for many, one in zip(together, alone, strict=True):
        np.testing.assert_array_equal(many[2:], one)


def test_weights_are_drawn_as_in_their_layers():
    dense = layers.Dense(200, bias_initializer="ones")
    model = keras.Sequential([keras.Input([300]), dense])
    data = np.zeros([4, 300], "float32"), np.zeros([4], int)
    kernel, bias = ModelProblem(model, data, CROSSENTROPY).draw(0, 0, 1)[0]
    limit = (6 / 500) ** 0.5  # Glorot's
    assert np.abs(kernel).max() <= limit
    assert abs(kernel.numpy().std() / (limit / 3**0.5) - 1) < 0.01
    np.testing.assert_array_equal(bias, np.ones([1, 200]))


@pytest.mark.slow
def test_one_initializer_draws_all_weights():
    family = problem(initializer=keras.initializers.RandomNormal(stddev=0.5))
    params, _ = family.draw(0, 0, 50)
    for param in params:
        values = param.numpy()
        assert abs(values.std() / 0.5 - 1) < 5 / values.size**0.5


def test_recurrent_weights_have_their_own_initializer():
    model = keras.Sequential([keras.Input([3, 2]), layers.SimpleRNN(4)])
    data = np.zeros([4, 3, 2], "float32"), np.zeros([4, 4], "float32")
    params, _ = ModelProblem(model, data, "mse").draw(0, 0, 1)
    recurrent = params[1][0].numpy()
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(4), atol=1e-5)


class Scale(layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(), initializer="zeros")

    def call(self, x):
        return x * self.scale


def test_weights_without_an_initializer_start_at_the_models_value():
    model = keras.Sequential([keras.Input([2]), Scale()])
    model.layers[0].scale.assign(3.0)
    data = np.zeros([4, 2], "float32"), np.zeros([4, 2], "float32")
    params, _ = ModelProblem(model, data, "mse").draw(0, 0, 2)
    assert params[0].numpy().tolist() == [3.0, 3.0]


def test_a_data_set_is_read_once_and_kept_unchanged():
    x, y = arrays()
    images = (x * 50).astype("uint8")
    data = tf.data.Dataset.from_tensor_slices((images, y))
    model = keras.Sequential(
        [
            keras.Input([4, 4, 1]),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    of_set = ModelProblem(model, data, CROSSENTROPY, batch_size=5)
    of_arrays = ModelProblem(model, (images, y), CROSSENTROPY, batch_size=5)
    params, drawn = of_set.draw(0, 0, 2)
    assert of_set._x.dtype == tf.uint8
    np.testing.assert_array_equal(
        of_set.losses(params, drawn, 1), of_arrays.losses(params, drawn, 1)
    )


@pytest.mark.parametrize(
    ("data", "loss", "message"),
    [
        (
            (arrays()[0], np.zeros([20, 3])),
            "mse",
            r"do not fit together.*y of shape \(20, 3\).*needs `y`",
        ),
        (
            (np.zeros([20, 5, 4, 1]), arrays()[1]),
            CROSSENTROPY,
            r"do not fit together.*x of shape \(20, 5, 4, 1\)",
        ),
        (
            (arrays()[0], np.full([20], 7)),
            CROSSENTROPY,
            "in 0..1: the model tells 2 classes apart. Received: 20 other "
            "labels, such as 7",
        ),
        (arrays(), None, "`loss` must be a Keras loss"),
    ],
)
def test_data_and_losses_that_do_not_fit_are_refused_at_once(
    data, loss, message
):
    with pytest.raises(ValueError, match=message):
        ModelProblem(network(), data, loss)


def dropout_network():
    return keras.Sequential(
        [
            keras.Input([4, 4, 1]),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(2),
        ]
    )


def test_dropout_depends_on_the_step_and_is_reproducible():
    x, _ = arrays()
    same = np.repeat(x[:1], 20, axis=0), np.zeros([20], int)
    family = ModelProblem(dropout_network(), same, CROSSENTROPY, batch_size=4)
    params, data = family.draw(0, 0, 1)
    losses = [float(family.losses(params, data, i)[0]) for i in (0, 1, 2, 0)]
    assert len(set(losses[:3])) == 3
    assert losses[3] == losses[0]
    _, other = family.draw(0, 7, 1)
    assert float(family.losses(params, other, 0)[0]) != losses[0]


def test_an_lstm_starts_with_its_own_biases():
    model = keras.Sequential(
        [keras.Input([3, 2]), layers.LSTM(2), layers.Dense(2)]
    )
    data = np.zeros([6, 3, 2]), np.zeros([6], int)
    family = ModelProblem(model, data, CROSSENTROPY)
    params, _ = family.draw(0, 0, 2)
    for i in range(2):
        np.testing.assert_array_equal(params[2][i], [0, 0, 1, 1, 0, 0, 0, 0])


def test_an_initializer_without_a_seed_is_refused():
    model = network(kernel_initializer=lambda shape, dtype: tf.zeros(shape))
    with pytest.raises(ValueError, match="Keras initializers.*dense.*kernel"):
        ModelProblem(model, arrays(), CROSSENTROPY)
    ModelProblem(model, arrays(), CROSSENTROPY, initializer="glorot_normal")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.repeat(), "infinite data set. Remove `.repeat"),
        (lambda data: data.batch(8), "single examples.*Remove `.batch"),
    ],
)
def test_infinite_and_batched_data_sets_are_refused(change, message):
    data = change(tf.data.Dataset.from_tensor_slices(arrays()))
    with pytest.raises(ValueError, match=message):
        ModelProblem(network(), data, CROSSENTROPY)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            (np.full([20, 4, 4, 1], np.nan), arrays()[1]),
            "`data` must be finite",
        ),
        ((arrays()[0], np.full([20], 0.5)), "class numbers.*0.5"),
        ((arrays()[0], np.array(["a"] * 20)), "class numbers"),
        (([], arrays()[1]), "`data` must hold inputs"),
        ((tf.ragged.constant([[1.0], []]), arrays()[1]), "`data`.*RaggedTens"),
    ],
)
def test_values_that_cannot_be_learned_from_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        ModelProblem(network(), data, CROSSENTROPY)


@pytest.mark.parametrize("name", ["loss", "initializer"])
def test_names_unknown_to_keras_are_reported(name):
    arguments = {"loss": CROSSENTROPY, name: "nonsense"}
    with pytest.raises(ValueError, match=f"`{name}` must .*{name}='nonsense'"):
        ModelProblem(network(), arrays(), **arguments)


@pytest.mark.parametrize("data", [(arrays()[0], None), (1.0, 2)])
def test_arrays_without_examples_are_refused(data):
    with pytest.raises(ValueError, match="`data` must hold"):
        ModelProblem(network(), data, CROSSENTROPY)


def test_refuses_values_that_are_not_models():
    with pytest.raises(TypeError, match="`model` must be a keras.Model"):
        ModelProblem(len, arrays(), CROSSENTROPY)


@pytest.mark.slow_variants("<lambda>")
@pytest.mark.parametrize(
    "loss",
    [
        keras.metrics.sparse_categorical_accuracy,
        lambda y_true, y_pred: tf.stop_gradient(CROSSENTROPY(y_true, y_pred)),
    ],
)
def test_a_loss_without_a_gradient_is_refused(loss):
    with pytest.raises(ValueError, match="`loss` must have a gradient"):
        ModelProblem(network(), arrays(), loss)


def test_a_frozen_model_is_refused():
    model = network()
    model.trainable = False
    with pytest.raises(ValueError, match="with 0 trainable weights.*unfreeze"):
        ModelProblem(model, arrays(), CROSSENTROPY)


def test_an_empty_data_set_is_refused():
    data = tf.data.Dataset.from_tensor_slices(arrays()).take(0)
    with pytest.raises(ValueError, match="`data` must hold examples"):
        ModelProblem(network(), data, CROSSENTROPY)


def test_a_model_that_is_not_built_is_refused():
    model = keras.Sequential([layers.Dense(2)], name="raw")
    with pytest.raises(ValueError, match="`model` must be built.*'raw'"):
        ModelProblem(model, arrays(), CROSSENTROPY)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.zeros([3, 2]), r"`data` must be a pair \(x, y\).*ndarray"),
        ((np.zeros([3, 4, 4, 1]), np.zeros([2])), r"sizes \[2, 3\]"),
        ((np.zeros([0, 4, 4, 1]), np.zeros([0])), r"sizes \[0\]"),
    ],
)
def test_data_of_the_wrong_type_are_refused(data, message):
    with pytest.raises(ValueError, match=message):
        ModelProblem(network(), data, CROSSENTROPY)


def test_losses_that_layers_add_are_refused():
    model = network(activity_regularizer="l2")
    with pytest.raises(
        NotImplementedError, match="activity regularizer.*Remov"
    ):
        problem(model)
