import keras
import pytest
import tensorflow as tf
from keras import ops

from keras_meta.unroll.second_order import refuse_wrong_derivatives
from keras_meta.unroll.task_batched import TaskBatched

from .reference import assert_equals_loop
from .reference import normal
from .reference import stacked

layers = keras.layers

MOMENTS = "moments directly .*first_order=True"
MAX_POOL = "max-pooling operation directly .*first_order=True"


def standardized(x):
    mean, variance = ops.moments(x, axes=[-1], keepdims=True)
    return (x - mean) * ops.rsqrt(variance + 1e-3)


class Standardized(layers.Layer):
    """A custom layer with a weight, so that it is called once per task."""

    def build(self, shape):
        self.scale = self.add_weight(shape=[shape[-1]], initializer="ones")

    def call(self, x):
        return standardized(x) * self.scale


class OwnNormalization(layers.LayerNormalization):
    """A subclass that changes nothing."""


def call(function, *, second_order=True, xla=False, shape=(4, 3)):
    """Traces a task-batched call of a layer or function after a Dense."""
    layer = function
    if not isinstance(function, layers.Layer):
        layer = layers.Lambda(function)
    model = keras.Sequential([keras.Input(shape), layers.Dense(3), layer])
    variables = model.trainable_variables
    batched = TaskBatched(model, variables)
    state = batched.initial_state()

    @tf.function(autograph=False)
    def run(x):
        return batched(
            stacked(variables, 2),
            state,
            x,
            training=True,
            second_order=second_order,
            xla=xla,
        ).outputs

    return run(normal([2, 3, *shape]))


DIRECT = {
    "keras": standardized,
    "tensorflow": lambda x: x - tf.nn.moments(x, [-1], keepdims=True)[1],
    "variance only": lambda x: ops.moments(x, [0])[1] + x,
}


def is_exact(layer):
    """Whether a layer's second derivatives equal the exact loop's."""
    model = keras.Sequential(
        [keras.Input([4, 3]), layers.Dense(3), layer, layers.Dense(2)]
    )
    try:
        assert_equals_loop(model, normal([2, 3, 4, 3]), training=True)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize("name", DIRECT)
def test_direct_calls_of_moments_are_refused(name):
    with pytest.raises(ValueError, match=MOMENTS):
        call(DIRECT[name])


@pytest.mark.parametrize(
    "make",
    [
        Standardized,
        OwnNormalization,
        lambda: layers.BatchNormalization(renorm=True),
        lambda: layers.BatchNormalization(synchronized=True),
        lambda: layers.LayerNormalization(rms_scaling=True),
    ],
    ids=["custom", "subclass", "renorm", "synchronized", "rms_scaling"],
)
def test_moments_inside_of_a_fallback_are_refused_or_exact(make):
    try:
        call(make())
    except ValueError as error:
        assert "moments directly" in str(error)
    else:
        assert is_exact(make())


def test_moments_are_refused_at_every_call_of_a_graph():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.ones([3, 2])
        tf.nn.moments(x, [0])  # Before the block: not the model's.
        with refuse_wrong_derivatives(True, False):
            tf.sin(x)
        with pytest.raises(ValueError, match=MOMENTS):
            with refuse_wrong_derivatives(True, False):
                tf.nn.moments(x, [0])


def pool(x):
    return tf.nn.max_pool2d(x[..., tf.newaxis], 2, 1, "VALID")


def test_direct_max_pooling_is_refused_under_xla():
    with pytest.raises(ValueError, match=MAX_POOL):
        call(pool, xla=True)
    with pytest.raises(ValueError, match=MAX_POOL):
        call(lambda x: ops.max_pool(x, 2), xla=True)


def test_direct_max_pooling_is_allowed_without_xla():
    assert call(pool).shape == (2, 3, 3, 2, 1)


def test_max_pooling_inside_of_a_fallback_is_refused_under_xla():
    class Pooled(layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=[shape[-1]])

        def call(self, x):
            return ops.max_pool(x * self.scale, 2)

    with pytest.raises(ValueError, match=MAX_POOL):
        call(Pooled(), xla=True)


@pytest.mark.parametrize("function", [standardized, pool])
def test_nothing_is_refused_for_a_first_derivative(function):
    y = call(function, second_order=False, xla=True)
    assert y.shape[:2] == (2, 3)


KERAS_LAYERS = {
    "batch": lambda: layers.BatchNormalization(),
    "layer": lambda: layers.LayerNormalization(),
    "group": lambda: layers.GroupNormalization(3),
    "rms": lambda: layers.RMSNormalization(),
    "unit": lambda: layers.UnitNormalization(),
    "pool": lambda: layers.MaxPooling1D(2),
}


@pytest.mark.parametrize("name", KERAS_LAYERS)
def test_layers_of_keras_are_not_refused(name):
    assert call(KERAS_LAYERS[name](), xla=True).shape[:2] == (2, 3)


def test_max_pooling_layer_inside_of_a_custom_layer_is_not_refused():
    class Block(layers.Layer):
        def __init__(self):
            super().__init__()
            self.norm = layers.LayerNormalization()
            self.pool = layers.MaxPooling1D(2)

        def build(self, shape):
            self.norm.build(shape)
            self.scale = self.add_weight(shape=[shape[-1]])

        def call(self, x):
            return self.pool(self.norm(x) * self.scale)

    assert call(Block(), xla=True).shape == (2, 3, 2, 3)


def test_stopped_gradients_of_the_user_are_not_refused():
    outputs = call(lambda x: x * tf.stop_gradient(tf.sin(x)))
    assert outputs.shape == (2, 3, 4, 3)
