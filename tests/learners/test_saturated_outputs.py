"""Cross-entropies of rounded probabilities are taken from the logits."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

from .helpers import compiled

layers, losses = keras.layers, keras.losses

# The wrong class has a probability that is 0 in float32.
_X = np.array([[1.0], [0.5], [1.0]], "float32")
_CLASSES = np.array([1, 1, 0], "int32")
_ONE_HOT = np.eye(2, dtype="float32")[_CLASSES]
_KERNEL = keras.initializers.Constant([[60.0, -60.0]])


class _OwnWeight(layers.Layer):
    """A layer without a rule, which is called once per task."""

    def __init__(self, activation, **kwargs):
        super().__init__(**kwargs)
        self.activation = keras.activations.get(activation)

    def build(self, shape):
        self.kernel = self.add_weight(
            shape=(shape[-1], 2), initializer=_KERNEL, name="kernel"
        )

    def call(self, x):
        return self.activation(x @ self.kernel)

    def get_config(self):
        activation = keras.activations.serialize(self.activation)
        return {**super().get_config(), "activation": activation}


def _dense(activation=None):
    return layers.Dense(2, activation, kernel_initializer=_KERNEL)


_OUTPUTS = {
    "activation of a layer": lambda name: [_dense(name)],
    "activation layer": lambda name: [_dense(), layers.Activation(name)],
    "per task": lambda name: [_OwnWeight(name)],
    "dropout behind": lambda name: [_dense(name), layers.Dropout(0.0)],
}


def _model(activation, output="activation of a layer"):
    return keras.Sequential([keras.Input([1]), *_OUTPUTS[output](activation)])


def _plain_step(model, loss, y):
    """Returns the weights after a step of Keras."""
    model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    model.train_on_batch(_X, y)
    return [w.numpy() for w in model.weights]


def _function(y_true, y_pred):
    return losses.binary_crossentropy(y_true, y_pred)


def _episode(y):
    x = {"support_x": _X, "support_y": y, "query_x": _X}
    return {k: v[np.newaxis] for k, v in x.items()}, y[np.newaxis]


_LOSSES = {
    "sparse": ("softmax", "sparse_categorical_crossentropy", _CLASSES),
    "categorical": ("softmax", losses.CategoricalCrossentropy(), _ONE_HOT),
    "smooth": (
        "softmax",
        losses.CategoricalCrossentropy(label_smoothing=0.1),
        _ONE_HOT,
    ),
    "categorical focal": (
        "softmax",
        losses.CategoricalFocalCrossentropy(),
        _ONE_HOT,
    ),
    "binary": ("sigmoid", "binary_crossentropy", _ONE_HOT),
    "binary focal": ("sigmoid", losses.BinaryFocalCrossentropy(), _ONE_HOT),
    "function": ("sigmoid", _function, _ONE_HOT),
}
_FROM_LOGITS = [name for name in _LOSSES if name != "categorical focal"]


def test_the_label_of_a_saturated_output_is_learned():
    model = keras.Sequential(
        [
            keras.Input([1]),
            layers.Dense(
                2,
                "softmax",
                kernel_initializer=keras.initializers.Constant([[20.0, -20.0]]),
            ),
        ]
    )
    loss = "sparse_categorical_crossentropy"
    learner = compiled(keras_meta.MAML(model, 0.1), loss=loss)
    adapted = learner.adapt(np.array([[1.0]]), np.array([1]))
    np.testing.assert_allclose(adapted.weights[0], [[19.9, -19.9]])


@pytest.mark.parametrize("name", _LOSSES)
def test_an_inner_step_equals_a_step_of_keras(name):
    activation, loss, y = _LOSSES[name]
    learner = compiled(keras_meta.MAML(_model(activation), 0.1), loss=loss)
    adapted = learner.adapt(_X, y).get_weights()
    expected = _plain_step(_model(activation), loss, y)
    for one, other in zip(adapted, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    moves = np.abs(adapted[0] - _model(activation).get_weights()[0])
    assert (moves.min() > 1e-3) == (name in _FROM_LOGITS)


@pytest.mark.parametrize("output", _OUTPUTS)
def test_wherever_the_activation_stands(output):
    loss = "sparse_categorical_crossentropy"
    model = _model("softmax", output)
    learner = compiled(keras_meta.MAML(model, 0.1), loss=loss)
    adapted = learner.adapt(_X, _CLASSES)
    expected = _plain_step(_model("softmax", output), loss, _CLASSES)
    np.testing.assert_allclose(adapted.weights[0], expected[0], rtol=1e-6)
    assert abs(expected[0][0, 0] - 60) > 1e-3


def test_a_shape_that_a_layer_gives_afterwards():
    """Keras forgets the logits at a reshape; so must the inner loop."""

    def make():
        return keras.Sequential(
            [keras.Input([1]), _dense("softmax"), layers.Reshape([2])]
        )

    loss = "sparse_categorical_crossentropy"
    learner = compiled(keras_meta.MAML(make(), 0.1), loss=loss)
    adapted = learner.adapt(_X, _CLASSES)
    expected = _plain_step(make(), loss, _CLASSES)
    np.testing.assert_allclose(adapted.weights[0], expected[0])


# Nothing is adapted with this rate, so that queries are as in plain Keras.
_NO_RATE = 1e-30
_OPTIONS = {
    "one step": {},
    "each step": {"step_weights": [0.0, 1.0], "steps": 2},
    "checkpoints": {
        "step_weights": [0.0, 1.0],
        "steps": 2,
        "meta_gradient": keras_meta.Unrolled("step"),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("options", _OPTIONS)
@pytest.mark.parametrize("name", ["sparse", "binary"])
def test_an_outer_step_equals_a_step_of_keras(name, options):
    activation, loss, y = _LOSSES[name]
    learner = keras_meta.MAML(_model(activation), _NO_RATE, **_OPTIONS[options])
    compiled(learner, loss=loss).train_on_batch(*_episode(y))
    expected = _plain_step(_model(activation), loss, y)
    for weight, value in zip(learner.model.weights, expected, strict=True):
        np.testing.assert_allclose(weight, value, rtol=1e-6)


def test_reptile_takes_the_same_inner_steps():
    activation, loss, y = _LOSSES["sparse"]
    learner = keras_meta.Reptile(_model(activation), 0.1, steps=1)
    compiled(learner, keras.optimizers.SGD(1.0), loss)
    learner.train_on_batch(*_episode(y))
    expected = _plain_step(_model(activation), loss, y)
    np.testing.assert_allclose(learner.model.weights[0], expected[0], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sparse", "binary"])
def test_measured_losses_equal_those_of_keras(name):
    activation, loss, y = _LOSSES[name]
    plain = _model(activation)
    plain.compile("sgd", loss)
    expected = plain.evaluate(_X, y, verbose=0)
    learner = compiled(keras_meta.MAML(_model(activation), _NO_RATE), loss=loss)
    x, y = keras.tree.map_structure(
        lambda a: np.repeat(a, 2, axis=0), _episode(y)
    )
    data = tf.data.Dataset.from_tensors((x, y))
    curve = keras_meta.adaptation_curve(learner, data, tasks=2, steps=2)
    for actual in (
        learner.evaluate(data, verbose=0),
        keras_meta.evaluate_tasks(learner, data, tasks=2)["loss"].mean,
        *curve["loss"].mean,
    ):
        np.testing.assert_allclose(actual, expected, rtol=1e-5)
    # What a clipped probability would give at most.
    assert expected > 16.2


@pytest.mark.slow
@pytest.mark.skipif(
    bool(tf.config.list_logical_devices("GPU")),
    reason="blocks are for the CPU",
)
def test_tasks_one_by_one_and_in_blocks(plain):
    def make(eager):
        model = keras.Sequential(
            [
                keras.Input([2, 2, 1]),
                layers.Conv2D(1, 1, kernel_initializer="ones"),
                layers.Flatten(),
                layers.Dense(2, "softmax"),
            ]
        )
        kernel = np.array([[60.0, -60.0]] * 4)
        model.layers[-1].set_weights([kernel, np.zeros(2)])
        return compiled(
            keras_meta.MAML(model, 0.1),
            loss="sparse_categorical_crossentropy",
            metrics=["sparse_categorical_crossentropy"],
            run_eagerly=eager,
        )

    images = np.ones([2, 3, 2, 2, 1], "float32")
    labels = np.stack([_CLASSES, 1 - _CLASSES])
    x = {"support_x": images, "support_y": labels, "query_x": images}
    data = tf.data.Dataset.from_tensors((x, labels))
    results = []
    for eager in (False, True):
        learner = make(eager)
        logs = learner.fit(data, verbose=0, shuffle=False).history
        tested = learner.evaluate(data, verbose=0, return_dict=True)
        results.append([*sum(logs.values(), []), *tested.values()])
    assert plain == [(1, False)] * 2
    np.testing.assert_allclose(*results, rtol=1e-5)
    assert min(results[0]) > 16.2


@pytest.mark.slow
def test_half_precision_keeps_the_logits():
    def dense():
        return layers.Dense(
            2, "softmax", kernel_initializer=_KERNEL, dtype="mixed_bfloat16"
        )

    model = keras.Sequential([keras.Input([1]), dense()])
    loss = "sparse_categorical_crossentropy"
    learner = compiled(keras_meta.MAML(model, 0.1), loss=loss)
    adapted = learner.adapt(_X, _CLASSES)
    full = compiled(keras_meta.MAML(_model("softmax"), 0.1), loss=loss)
    expected = full.adapt(_X, _CLASSES)
    np.testing.assert_allclose(
        adapted.weights[0] - 60 * np.array([[1, -1]]),
        expected.weights[0] - 60 * np.array([[1, -1]]),
        rtol=1e-2,
    )
    learner = keras_meta.MAML(model, _NO_RATE)
    compiled(learner, loss=loss).train_on_batch(*_episode(_CLASSES))
    np.testing.assert_allclose(model.weights[0], expected.weights[0], rtol=1e-3)


def test_two_outputs():
    def inner(y_true, outputs):
        return losses.sparse_categorical_crossentropy(
            y_true, outputs[0]
        ) + losses.sparse_categorical_crossentropy(y_true, outputs[1])

    inputs = keras.Input([1])
    outputs = [_dense("softmax")(inputs), _dense("softmax")(inputs)]
    model = keras.Model(inputs, outputs)
    adapted = keras_meta.MAML(model, 0.1, inner_loss=inner).adapt(_X, _CLASSES)
    loss = "sparse_categorical_crossentropy"
    expected = _plain_step(_model("softmax"), loss, _CLASSES)
    np.testing.assert_allclose(adapted.weights[0], expected[0], rtol=1e-6)
    np.testing.assert_allclose(adapted.weights[2], expected[0], rtol=1e-6)


def test_a_problem_of_a_model():
    problem = keras_meta.problems.ModelProblem(
        _model("softmax"),
        (_X, _CLASSES),
        "sparse_categorical_crossentropy",
        batch_size=2,
    )
    params, data = problem.draw(seed=0, index=0, instances=2)
    params = [tf.convert_to_tensor(p) for p in params]
    with tf.GradientTape() as tape:
        tape.watch(params)
        loss = problem.losses(params, data, step=0)
    gradient = tape.gradient(loss, params)[0]
    assert (np.abs(gradient) > 1e-3).any()
