"""Layers that Keras or TensorFlow computes again for their gradient."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

layers = keras.layers
BOTH_ORDERS = pytest.mark.parametrize("order", ["first_order", "unrolled"])


class Applied(layers.Layer):
    """Applies a function to a layer or operation, and that to inputs."""

    def __init__(self, how, inner, **kwargs):
        super().__init__(**kwargs)
        self.how = how
        self.inner = inner

    def build(self, shape):
        if isinstance(self.inner, layers.Layer):
            self.inner.build(shape)

    def call(self, x):
        return self.how(self.inner)(x)


class Scaled(layers.Layer):
    """Reads a weight of its own in a function that is computed again."""

    def build(self, shape):
        self.scale = self.add_weight(shape=[shape[-1]], initializer="ones")

    def call(self, x):
        return keras.remat(lambda x: tf.tanh(x * self.scale))(x)


def directly(function):
    return function


def network(*middle):
    return keras.Sequential([keras.Input([2]), *middle, layers.Dense(1)])


def meta_gradient(model, order, adapt="all"):
    """Returns the gradient of the loss after one step, at fixed weights."""
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    x = {
        key: rng.normal(size=[2, 4, 1 + key.endswith("x")]).astype("float32")
        for key in ("support_x", "support_y", "query_x")
    }
    learner = keras_meta.MAML(
        model, 0.1, inner_loss="mse", meta_gradient=order, adapt=adapt
    )
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(learner(x, training=True)))
    return tape.gradient(loss, model.trainable_variables)


def assert_equal(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow_variants(
    "full-first_order",
    "activations-first_order",
    "larger_than-unrolled",
    "larger_than-first_order",
)
@BOTH_ORDERS
@pytest.mark.parametrize(
    "options",
    [
        {"mode": "full"},
        {"mode": "activations"},
        {"mode": "larger_than", "output_size_threshold": 1},
        {"mode": "list_of_layers", "layer_names": ["middle"]},
    ],
    ids=lambda options: options["mode"],
)
def test_a_rematerialization_scope_changes_no_meta_gradient(options, order):
    with keras.RematScope(**options):
        middle = layers.Dense(3, "tanh", name="middle")
    assert_equal(
        meta_gradient(network(middle), order),
        meta_gradient(network(layers.Dense(3, "tanh")), order),
    )
    # Outside of the inner loop it has its effect.
    again = middle.rematerialized_call(middle.call, tf.ones([1, 2]))
    assert again is not middle.call


@BOTH_ORDERS
@pytest.mark.parametrize("adapt", ["all", "head"])
@pytest.mark.parametrize("how", [tf.recompute_grad, keras.remat])
def test_weights_read_where_their_gradient_is_lost_are_refused(
    how, adapt, order
):
    model = network(Applied(how, layers.Dense(3, "tanh", name="inner")))
    message = "weight '.*/inner/kernel' is read within keras.remat"
    with pytest.raises(ValueError, match=message):
        meta_gradient(model, order, adapt)


@BOTH_ORDERS
def test_a_layers_own_weight_is_refused_in_the_same_words(order):
    model = network(layers.Dense(3), Scaled(name="own"))
    with pytest.raises(
        ValueError, match="^The weight '.*/own/variable.*' is read"
    ):
        meta_gradient(model, order)


def test_a_frozen_layer_may_be_rematerialized():
    def gradient(how):
        frozen = layers.Dense(3, "tanh", trainable=False)
        return meta_gradient(network(Applied(how, frozen)), "first_order")

    assert_equal(gradient(keras.remat), gradient(directly))


@pytest.mark.parametrize(
    ("adapt", "order"), [("all", "first_order"), ("head", "unrolled")]
)
def test_a_function_is_rematerialized_where_one_derivative_is_enough(
    adapt, order
):
    def gradient(how):
        model = network(layers.Dense(3), Applied(how, tf.tanh))
        return meta_gradient(model, order, adapt)

    assert_equal(gradient(keras.remat), gradient(directly))


@pytest.mark.parametrize("eager", [True, False])
def test_a_rematerialized_function_is_refused_at_second_order(eager):
    again = Applied(keras.remat, tf.tanh, name="again")
    learner = keras_meta.MAML(
        network(layers.Dense(3), again), 0.1, inner_loss="mse"
    )
    x = {
        "support_x": tf.ones([1, 2, 2]),
        "support_y": tf.ones([1, 2, 1]),
        "query_x": tf.ones([1, 2, 2]),
    }
    call = functools.partial(learner, training=True)
    message = "Layer 'again' uses keras.remat .*first_order"
    with pytest.raises(ValueError, match=message):
        (call if eager else tf.function(call, autograph=False))(x)
