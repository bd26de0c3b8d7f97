"""Inner losses that are layers, and what they learn."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta.inner.inner_loss import InnerLoss

from .helpers import adapt_by_hand
from .helpers import assert_same_weights
from .helpers import call_with
from .helpers import compiled
from .helpers import crossentropy
from .helpers import descent
from .helpers import mlp
from .helpers import refuses
from .helpers import regression

ops = keras.ops

pytestmark = pytest.mark.usefixtures("float64")

RATE = 0.3


@keras.saving.register_keras_serializable("keras_meta_tests")
class Scaled(keras.layers.Layer):
    """Half of the squared error, times a learned number."""

    def build(self, y_true_shape, y_pred_shape):
        self.scale = self.add_weight(shape=(), initializer="ones")

    def call(self, y_true, y_pred):
        return self.scale / 2 * ops.square(y_pred - y_true)


class Offset(keras.layers.Layer):
    """Half of the squared error to labels plus a learned number."""

    def build(self, y_true_shape, y_pred_shape):
        self.offset = self.add_weight(shape=(), initializer="zeros")

    def call(self, y_true, y_pred):
        return ops.square(y_pred - y_true - self.offset) / 2


class Shifted(keras.layers.Layer):
    """A loss plus a constant."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss
        self.constant = 0.0

    def build(self, y_true_shape, y_pred_shape):
        self.loss.build(y_true_shape, y_pred_shape)

    def call(self, y_true, y_pred):
        return self.loss(y_true, y_pred) + self.constant


def network(**options):
    return keras_meta.LossNetwork([5, 4], seed=0, **options)


def linear(inputs=1):
    layer = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
    return keras.Sequential([keras.Input([inputs]), layer])


def learner_of(model, loss, rate=RATE, steps=1, **options):
    learner = keras_meta.MAML(model, rate, steps, inner_loss=loss, **options)
    return compiled(learner, keras.optimizers.SGD(1.0), run_eagerly=True)


def gradients(learner, x, y, variables):
    with tf.GradientTape() as tape:
        loss, _ = learner.outer_loss(x, y)
    return tape.gradient(loss, variables)


def episode(support_x, support_y, query_x):
    return {
        "support_x": tf.constant(support_x),
        "support_y": tf.constant(support_y),
        "query_x": tf.constant(query_x),
    }


# What closed forms say.


@pytest.mark.slow_variants("h1")
@pytest.mark.parametrize("h", [[0.7], [0.5, 1.0, 3.0]])
def test_a_learned_factor_is_the_best_length_of_a_step(h):
    """`dL/dc` is linear in `c`, and zero at Newton's step with one feature."""
    h = np.array(h)
    d = len(h)
    x = np.diag(np.sqrt(d * h))  # mean of x x^T over the examples: diag(h)
    slopes = np.random.default_rng(0).normal(size=[3, d, 1])
    x = np.broadcast_to(x, [3, d, d])
    learner = learner_of(linear(d), Scaled())
    scale = learner.inner_loss.scale
    squares = np.square(slopes[..., 0])

    def slope_at(c):
        scale.assign(c)
        inputs = episode(x, x @ slopes, x)
        return gradients(learner, inputs, x @ slopes, scale)

    for c in (0.2, 1.0):
        error = 1 - RATE * c * h
        expected = np.sum(-2 * RATE * h**2 * error * squares, -1).mean()
        np.testing.assert_allclose(slope_at(c), expected, rtol=1e-10)
    best = np.sum(h**2 * squares) / (RATE * np.sum(h**3 * squares))
    np.testing.assert_allclose(slope_at(best), 0, atol=1e-12)
    if d == 1:
        np.testing.assert_allclose(best, 1 / (RATE * h[0]))
        inputs = episode(x, x @ slopes, x)
        np.testing.assert_allclose(learner(inputs), x @ slopes)


def _offset_tasks():
    """Constant tasks, whose support labels are off by different amounts."""
    rng = np.random.default_rng(0)
    level, noise = rng.normal(size=[2, 4, 1, 1])
    zeros = np.zeros([4, 1, 1])
    return episode(zeros, level + noise, zeros), level, noise


def _constant_model():
    return keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])


@pytest.mark.slow_variants("1.0")
@pytest.mark.parametrize("rate", [0.4, 1.0])
def test_a_learned_offset_goes_against_the_noise_of_labels(rate):
    x, level, noise = _offset_tasks()
    learner = learner_of(_constant_model(), Offset(), rate)
    offset = learner.inner_loss.offset
    offset.assign(0.2)
    found = gradients(learner, x, tf.constant(level), offset)
    error = (1 - rate) * (0 - level) + rate * (noise + 0.2)
    np.testing.assert_allclose(found, np.mean(2 * rate * error), rtol=1e-10)
    if rate == 1:
        offset.assign(-noise.mean())
        found = gradients(learner, x, tf.constant(level), offset)
        np.testing.assert_allclose(found, 0, atol=1e-12)


@pytest.mark.slow
def test_the_implicit_gradient_of_a_loss_is_exact():
    x, level, noise = _offset_tasks()
    learner = learner_of(
        _constant_model(),
        Offset(),
        1.0,
        meta_gradient=keras_meta.Implicit(steps=2, damping=1e-12),
        start="drawn",
    )
    offset = learner.inner_loss.offset
    offset.assign(0.2)
    learner.train_on_batch(x, level)
    expected = np.mean(2 * (noise + 0.2))
    np.testing.assert_allclose(0.2 - offset, expected, rtol=1e-9)


# What a plain loop and differences say.


def _by_hand(learner, x, y, steps):
    """The outer loss of tasks that adapt one after another."""
    model, layer = learner.model, learner.inner_loss
    losses = []
    for i in range(len(y)):
        values = adapt_by_hand(
            model,
            x["support_x"][i],
            x["support_y"][i],
            lambda y, p: tf.reduce_mean(layer(y, p)),
            descent(RATE),
            steps,
        )
        p = call_with(model, model.trainable_variables, values, x["query_x"][i])
        losses.append(tf.reduce_mean(tf.square(p - y[i])))
    return tf.reduce_mean(losses)


@pytest.mark.slow_variants("base1")
@pytest.mark.parametrize("base", [None, keras.losses.LogCosh()])
def test_a_network_learns_as_in_a_plain_loop(base):
    x, y = regression(tasks=2, outputs=2)
    learner = learner_of(mlp(2), network(base=base), steps=2)
    if base is not None:
        learner.inner_loss.head.kernel.assign([[0.3], [-0.2], [0.1], [0.4]])
    variables = learner.trainable_variables
    with tf.GradientTape() as tape:
        expected = _by_hand(learner, x, y, 2)
    expected = tape.gradient(expected, variables)
    found = gradients(learner, x, y, variables)
    assert len(found) == 4 + 6
    for one, other in zip(found, expected, strict=True):
        assert np.any(np.abs(other) > 1e-6)
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-12)


@pytest.mark.slow
def test_the_gradient_of_a_network_equals_differences():
    x, y = regression(tasks=2)
    learner = learner_of(linear(2), network())
    variables = learner.inner_loss.trainable_variables
    found = gradients(learner, x, y, variables)
    rng = np.random.default_rng(0)
    directions = [rng.normal(size=v.shape) for v in variables]
    before = [v.numpy() for v in variables]

    def loss_at(distance):
        for v, start, to in zip(variables, before, directions, strict=True):
            v.assign(start + distance * to)
        return learner.outer_loss(x, y)[0]

    slope = (loss_at(1e-5) - loss_at(-1e-5)) / 2e-5
    products = [np.sum(g * d) for g, d in zip(found, directions, strict=True)]
    np.testing.assert_allclose(np.sum(products), slope, rtol=1e-6)


def test_tasks_may_have_losses_of_their_own():
    """Evolution strategies perturb the loss of each task."""
    x, y = regression(tasks=2)
    learner = learner_of(
        mlp(),
        network(),
        meta_gradient=keras_meta.EvolutionStrategies(2, 0.1),
    )
    variables = learner.trainable_variables
    rng = np.random.default_rng(0)
    theta = [tf.constant(rng.normal(size=[2, *v.shape])) for v in variables]
    x, y = keras.tree.map_structure(tf.constant, (x, y))
    found = learner.task_losses(x, y, None, theta, 1)
    for i in range(2):
        for v, values in zip(variables, theta, strict=True):
            v.assign(values[i])
        one = {k: v[i : i + 1] for k, v in x.items()}
        expected, _ = learner.outer_loss(one, y[i : i + 1])
        np.testing.assert_allclose(found[i], expected, rtol=1e-10)


@pytest.mark.slow
def test_adding_a_constant_changes_nothing():
    x, y = regression(tasks=2)
    learner = learner_of(mlp(), Shifted(network()))
    found = []
    for constant in (0.0, 1e3):
        learner.inner_loss.constant = constant
        found.append(gradients(learner, x, y, learner.trainable_variables))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)


@pytest.mark.slow
def test_xla_learns_the_same_loss():
    x, y = regression(tasks=2)
    learners = []
    for options in ({"run_eagerly": True}, {"jit_compile": True}):
        keras.utils.set_random_seed(0)
        loss = keras_meta.LossNetwork([3], seed=0)
        learner = keras_meta.MAML(linear(2), RATE, inner_loss=loss)
        learners.append(compiled(learner, **options))
        learner.train_on_batch(x, y)
    assert_same_weights(*learners, rtol=1e-9)


# What a layer gets and gives.


def test_a_network_with_a_base_starts_as_its_base():
    x, y = regression(tasks=2)
    learner = learner_of(mlp(), network(base="mse"))
    plain = learner_of(learner.model, "mse")
    np.testing.assert_allclose(learner(x), plain(x), rtol=1e-12)


@pytest.mark.slow
def test_a_linear_output_has_no_bias_that_learns_nothing():
    learner = learner_of(mlp(), network(output_activation=None))
    x, y = regression(tasks=2)
    assert len(learner.inner_loss.head.weights) == 1
    for g in gradients(learner, x, y, learner.inner_loss.trainable_variables):
        assert np.any(np.abs(g) > 1e-9)


def _classified():
    rng = np.random.default_rng(0)
    labels = np.array([[0, 1, 2, 1], [2, 0, 1, 0]])
    x = {"support_x": rng.normal(size=[2, 4, 2]), "support_y": labels}
    x["query_x"] = rng.normal(size=[2, 3, 2])
    return x, np.array([[0, 1, 2], [2, 0, 1]])


def test_a_layer_gets_class_numbers_one_hot():
    x, _ = _classified()
    learner = keras_meta.MAML(mlp(3), RATE, inner_loss=network())
    compiled(learner, loss=crossentropy(), run_eagerly=True)
    found = learner(x)
    one_hot = {**x, "support_y": np.eye(3)[x["support_y"]]}
    np.testing.assert_array_equal(found, learner(one_hot))
    last_axis = {**x, "support_y": x["support_y"][..., None]}
    np.testing.assert_array_equal(found, learner(last_axis))
    assert learner._default_signature()["support_y"].dtype == tf.int32
    wrong = {**x, "support_y": x["support_y"] + 1}
    with refuses(ValueError, r"Labels must be in 0..2.*label 3"):
        learner(wrong)


class _Mixing(Scaled):
    def call(self, y_true, y_pred):
        error = super().call(y_true, y_pred)
        return ops.square(error - ops.mean(error))


def test_a_layer_that_mixes_examples_sees_those_of_one_task():
    x, y = regression(tasks=2)
    layer = _Mixing()
    p = np.tanh(y + 0.3)
    expected = [tf.reduce_mean(layer(y[i], p[i])) for i in range(2)]
    found = InnerLoss(layer)(tf.constant(y), tf.constant(p))
    np.testing.assert_allclose(found, expected)


def test_labels_of_other_shapes_are_refused():
    x, y = regression(tasks=2, outputs=2)
    learner = learner_of(mlp(2), network())
    with refuses(ValueError, r"labels of the predictions' shape.*support_y"):
        learner({**x, "support_y": np.ones([2, 5, 3])})


def test_labels_may_lack_the_last_axis():
    x, y = regression(tasks=2)
    learner = learner_of(mlp(), network())
    flat = {**x, "support_y": x["support_y"][..., 0]}
    np.testing.assert_array_equal(learner(flat), learner(x))


@pytest.mark.slow
def test_weights_of_examples_weigh_a_learned_loss():
    x, _ = regression(tasks=2)
    learner = learner_of(mlp(), network())
    weight = np.ones([2, 5])
    weight[:, 3:] = 0
    cut = {**x, "support_x": x["support_x"][:, :3]}
    cut["support_y"] = x["support_y"][:, :3]
    # The mean over all five examples, of which two count nothing.
    other = learner_of(learner.model, learner.inner_loss, RATE * 3 / 5)
    np.testing.assert_allclose(
        learner({**x, "support_sample_weight": weight}), other(cut)
    )


class _OfFeatures(keras.layers.Layer):
    """Weighs the examples by a learned function of their inputs."""

    def __init__(self):
        super().__init__()
        self.weigh = keras.layers.Dense(1, "sigmoid")

    def build(self, y_true_shape, y_pred_shape, x_shape):
        self.weigh.build(x_shape)

    def call(self, y_true, y_pred, x):
        return self.weigh(x) * ops.square(y_pred - y_true)


def test_a_layer_may_take_the_features():
    x, y = regression(tasks=2)
    learner = learner_of(mlp(), _OfFeatures())
    kernel = learner.inner_loss.weigh.kernel
    assert np.any(np.abs(gradients(learner, x, y, kernel)) > 1e-6)
    found = learner(x)
    weight = learner.inner_loss.weigh(x["support_x"])[..., 0]
    plain = learner_of(learner.model, "mse")
    weighted = {**x, "support_sample_weight": weight}
    np.testing.assert_allclose(found, plain(weighted))
    with refuses(ValueError, "takes the features too"):
        keras_meta.LearnedLoss(learner.inner_loss)


@pytest.mark.slow
def test_a_functional_model_may_be_a_loss():
    inputs = [keras.Input([1]), keras.Input([1])]
    hidden = keras.layers.Concatenate()(inputs)
    hidden = keras.layers.Dense(3, "tanh")(hidden)
    outputs = keras.layers.Dense(1, "softplus")(hidden)
    loss = keras.Model(inputs, outputs)
    x, y = regression(tasks=2)
    learner = learner_of(mlp(), loss)
    for g in gradients(learner, x, y, loss.trainable_variables):
        assert np.any(np.abs(g) > 1e-9)


def test_a_subclassed_model_builds_its_loss():
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    net = Net()
    net(np.ones([1, 2]))
    learner = learner_of(net, network())
    assert learner.inner_loss.hidden[0].kernel.shape == (6, 5)


# What is refused.


@pytest.mark.parametrize(
    "meta_gradient",
    ["first_order", keras_meta.Truncated(3, keras_meta.FirstOrder())],
)
def test_first_order_is_refused_for_a_loss_that_learns(meta_gradient):
    with refuses(ValueError, "learn nothing.*Unrolled"):
        learner_of(mlp(), network(), meta_gradient=meta_gradient)
    with refuses(ValueError, "learn nothing.*Unrolled"):
        keras_meta.Reptile(mlp(), 0.1, inner_loss=network())
    learner = learner_of(mlp(), network())
    with refuses(ValueError, "learn nothing.*trainable = False"):
        learner.meta_gradient = meta_gradient


@pytest.mark.slow
def test_a_frozen_loss_goes_with_any_meta_gradient():
    x, y = regression(tasks=2)
    loss = network(trainable=False)
    learner = learner_of(mlp(), loss, meta_gradient="first_order")
    assert len(learner.trainable_variables) == 4
    before = [v.numpy() for v in loss.weights]
    learner.train_on_batch(x, y)
    assert_same_weights(before, [v.numpy() for v in loss.weights])
    loss.trainable = True
    with refuses(ValueError, "learn nothing.*Unrolled"):
        learner.train_on_batch(x, y)


def test_a_layer_is_no_outer_loss():
    x, y = regression(tasks=2)
    learner = compiled(
        keras_meta.MAML(mlp(), RATE, inner_loss="mse"), loss=network()
    )
    with refuses(ValueError, "return as little as possible.*LearnedLoss"):
        learner.train_on_batch(x, y)


class _Bad(keras.layers.Layer):
    """A network of the error, with something that a loss cannot have."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def call(self, y_true, y_pred):
        return ops.mean(self.layer(ops.square(y_true - y_pred)), -1)


def _unit(**options):
    return _Bad(keras.layers.Dense(3, **options))


_REFUSED = {
    "dropout": (lambda: _Bad(keras.layers.Dropout(0.5)), "changes .*seed"),
    "batch normalization": (
        lambda: _Bad(keras.layers.BatchNormalization()),
        "changes .*moving_mean",
    ),
    "added loss": (lambda: _unit(activity_regularizer="l2"), "adds 1 losses"),
    "float16": (lambda: _unit(dtype="mixed_float16"), "float16"),
    "one input": (mlp, "called with .y_true, y_pred"),
    "one argument": (lambda: keras.layers.Dense(1), "called with .y_true"),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_layers_that_are_no_losses_are_refused(name):
    make, message = _REFUSED[name]
    x, y = regression(tasks=2)
    with refuses(ValueError, message):
        learner_of(mlp(), make()).train_on_batch(x, y)


def test_shared_weights_are_refused():
    model = mlp(1, 1)
    with refuses(ValueError, "must not share weights"):
        learner_of(model, _Bad(model.layers[-2]))


# What is kept.


def test_a_file_keeps_the_loss(tmp_path):
    x, y = regression(tasks=2)
    learner = learner_of(mlp(), network(base="mse"))
    for v in learner.trainable_variables:
        v.assign(np.random.default_rng(0).normal(size=v.shape))
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    assert loaded.inner_loss.get_config() == learner.inner_loss.get_config()
    assert_same_weights(loaded, learner)
    np.testing.assert_array_equal(loaded(x), learner(x))


def _plain_model():
    model = mlp()
    for i, v in enumerate(model.trainable_variables):
        v.assign(np.random.default_rng(i).normal(size=v.shape))
    return model


@pytest.mark.slow_variants("own")
@pytest.mark.parametrize("make", [network, Scaled], ids=["network", "own"])
def test_a_learned_loss_is_a_loss_of_plain_keras(make, tmp_path):
    x, y = regression(tasks=1)
    learner = learner_of(_plain_model(), make())
    adapted = learner.adapt(x["support_x"][0], x["support_y"][0])
    model = _plain_model()
    model.compile(
        keras.optimizers.SGD(RATE),
        keras_meta.LearnedLoss(learner.inner_loss),
        run_eagerly=True,
    )
    assert len(model.trainable_variables) == 4
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.compile(loaded.optimizer, loaded.loss, run_eagerly=True)
    for one in (model, loaded):
        one.train_on_batch(x["support_x"][0], x["support_y"][0])
        for v, w in zip(adapted.weights, one.weights, strict=True):
            np.testing.assert_allclose(v, w, rtol=1e-10)


def test_a_learned_loss_takes_class_numbers_in_plain_keras():
    layer = network()
    layer.build([None, 3], [None, 3])
    loss = keras_meta.LearnedLoss(layer)
    p = np.random.default_rng(0).normal(size=[4, 3])
    y = np.array([0, 2, 1, 1])
    np.testing.assert_allclose(loss(y, p), loss(np.eye(3)[y], p))
    assert np.isnan(loss(y + 1, p))
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    np.testing.assert_array_equal(copy(y, p), loss(y, p))


def test_a_learner_takes_the_layer_of_a_learned_loss():
    layer = network()
    with refuses(ValueError, "must be built"):
        keras_meta.LearnedLoss(layer)
    layer.build([None, 1], [None, 1])
    with refuses(ValueError, "inner_loss=loss.layer"):
        keras_meta.MAML(mlp(), inner_loss=keras_meta.LearnedLoss(layer))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": 5}, "`units`"),
        ({"units": [0]}, "`units`"),
        ({"base": "sparse_categorical_crossentropy"}, "one-hot"),
    ],
)
def test_bad_networks_are_refused(options, message):
    with refuses(ValueError, message):
        keras_meta.LossNetwork(**options)
