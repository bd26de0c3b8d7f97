import keras
import pytest
import tensorflow as tf
from keras import ops

from keras_meta.batching.task_batched import TaskBatched
from keras_meta.kernels.second_order import differentiate
from keras_meta.kernels.second_order import refuse_wrong_derivatives
from tests.reference import assert_equals_loop
from tests.reference import normal
from tests.reference import stacked

layers = keras.layers

MOMENTS = "moments directly .*meta_gradient=.first_order"
MAX_POOL = "max-pooling operation directly .*meta_gradient=.first_order"


def standardized(x):
    mean, variance = ops.moments(x, axes=[-1], keepdims=True)
    return (x - mean) * ops.rsqrt(variance + 1e-3)


class Standardized(layers.Layer):
    """A custom layer that is called once per task, as it has a weight."""

    def build(self, shape):
        self.scale = self.add_weight(shape=[shape[-1]], initializer="ones")

    def call(self, x):
        return standardized(x) * self.scale


class OwnNormalization(layers.LayerNormalization):
    """A subclass that changes nothing."""


def call(function, *, second_order=True, xla=False, shape=(4, 3)):
    """Traces a task-batched call of a dense layer, then a layer or function."""
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
    """Whether a layer's second derivatives equal those of the exact loop."""
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


@pytest.mark.slow_variants("rms_scaling", "synchronized")
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


def test_only_moments_inside_the_block_are_refused():
    graph = tf.Graph()
    with graph.as_default():
        x = tf.ones([3, 2])
        tf.nn.moments(x, [0])  # Outside the block, so not the model's.
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


class Mine(layers.Layer):
    """A user's layer that computes `function(x)`, optionally with a weight."""

    def __init__(self, function, weight=False):
        super().__init__(name="mine")
        self.function = function
        self.weight = weight

    def build(self, shape):
        if self.weight:
            self.add_weight(shape=[1], initializer="ones")

    def call(self, x):
        single = tf.cast(x[..., tf.newaxis], tf.float32)
        return tf.cast(self.function(single), x.dtype)


def take_gradient(
    layer, *, eagerly=False, xla=False, adapt=None, second_order=True
):
    """Computes a gradient as an inner step does.

    Args:
        layer: A layer between two dense layers.
        eagerly: Whether to compute eagerly.
        xla: Whether to claim that XLA compiles it.
        adapt: The adapted layer; by default, both dense layers.
        second_order: Whether a second derivative will be taken.
    """
    dense = layers.Dense(4), layers.Dense(1)
    model = keras.Sequential([keras.Input([4, 4]), dense[0], layer, dense[1]])
    adapted = dense if adapt is None else [dense[adapt]]
    variables = [v for x in adapted for v in x.trainable_variables]
    batched = TaskBatched(model, variables)
    state = batched.initial_state()

    def run(x):
        weights = stacked(variables, 2)

        def loss():
            outputs = batched(
                weights, state, x, second_order=second_order, xla=xla
            ).outputs
            return tf.reduce_sum(tf.sin(outputs)), None

        return differentiate(
            loss, weights, again=second_order, layers=batched.layers
        )[0]

    run = run if eagerly else tf.function(run, autograph=False)
    return run(normal([2, 3, 4, 4]))


def fake_quantized(x):
    return tf.quantization.fake_quant_with_min_max_args(x)


def dilated(x):
    return tf.nn.dilation2d(
        x, tf.ones([2, 2, 1]), [1] * 4, "SAME", "NHWC", [1] * 4
    )


def added_sparsely(x):
    x = tf.sparse.from_dense(tf.reshape(x, [-1, 4]))
    return tf.reshape(tf.sparse.to_dense(tf.sparse.add(x, x)), [-1, 4, 4, 1])


# Functions by the gradient operation that has no derivative.
WITHOUT_SECOND_DERIVATIVE = {
    "FakeQuantWithMinMaxArgsGradient": fake_quantized,
    "SparseAddGrad": added_sparsely,
    "Dilation2DBackpropInput": dilated,
    "FractionalMaxPoolGrad": lambda x: tf.nn.fractional_max_pool(
        x, [1, 1.5, 1.5, 1], seed=1
    )[0],
    "MaxPoolGradWithArgmax": lambda x: tf.nn.max_pool_with_argmax(
        x, 2, 1, "SAME"
    )[0],
    "QuantizeAndDequantizeV4Grad": lambda x: (
        tf.quantization.quantize_and_dequantize_v2(x, -1, 1, range_given=True)
    ),
    "IgammaGradA": lambda x: tf.math.igamma(tf.exp(x), 1.0),
    "CropAndResizeGradBoxes": lambda x: tf.image.crop_and_resize(
        tf.ones_like(x), x[:, 0, :, 0], tf.range(tf.shape(x)[0]), [4, 4]
    ),
}


# An eager call is checked in a graph that is traced for it.
@pytest.mark.slow_variants(
    *(f"{name}-True" for name in list(WITHOUT_SECOND_DERIVATIVE)[1:])
)
@pytest.mark.parametrize("eagerly", [False, True])
@pytest.mark.parametrize("name", WITHOUT_SECOND_DERIVATIVE)
def test_operations_without_second_derivative_are_refused(name, eagerly):
    layer = Mine(WITHOUT_SECOND_DERIVATIVE[name])
    message = f"Layer 'mine' .*{name}.*meta_gradient=.first_order"
    with pytest.raises(ValueError, match=message):
        take_gradient(layer, eagerly=eagerly)


@pytest.mark.parametrize("name", WITHOUT_SECOND_DERIVATIVE)
def test_operations_without_second_derivative_have_a_first_one(name):
    layer = Mine(WITHOUT_SECOND_DERIVATIVE[name])
    assert take_gradient(layer, second_order=False)


def test_an_operation_is_refused_at_every_call():
    model = keras.Sequential([keras.Input([4, 4]), layers.Dense(4)])
    model.add(Mine(dilated))
    variables = model.trainable_variables
    batched = TaskBatched(model, variables)
    for _ in range(2):
        with pytest.raises(ValueError, match="Dilation2D"):
            batched(stacked(variables, 2), [], normal([2, 3, 4, 4]))


def in_function(function):
    return tf.function(function, autograph=False)


def in_condition(function):
    return lambda x: tf.cond(
        tf.reduce_sum(x) > 0, lambda: function(x), lambda: x
    )


def in_loop(function):
    return lambda x: tf.while_loop(
        lambda i, _: i < 2, lambda i, x: (i + 1, function(x)), (0, x)
    )[1]


def in_function_in_condition(function):
    return in_condition(in_function(function))


NESTED = [in_function, in_condition, in_loop, in_function_in_condition]


@pytest.mark.slow_variants("True-in_loop", "True-in_function_in_condition")
@pytest.mark.parametrize("nested", NESTED)
@pytest.mark.parametrize("eagerly", [False, True])
def test_no_function_hides_a_missing_second_derivative(nested, eagerly):
    with pytest.raises(ValueError, match="Layer 'mine' .*Dilation2D"):
        take_gradient(Mine(nested(dilated)), eagerly=eagerly)


def with_moments(x):
    return x - tf.nn.moments(x, [1], keepdims=True)[0]


def with_max_pooling(x):
    return tf.nn.max_pool2d(x, 2, 1, "SAME")


@pytest.mark.parametrize("nested", NESTED)
def test_no_function_hides_moments_or_max_pooling(nested):
    with pytest.raises(ValueError, match=f"Layer 'mine' .*{MOMENTS}"):
        take_gradient(Mine(nested(with_moments)))
    with pytest.raises(ValueError, match=f"Layer 'mine' .*{MAX_POOL}"):
        take_gradient(Mine(nested(with_max_pooling)), xla=True)


def test_max_pooling_is_refused_in_a_function_that_xla_compiles():
    compiled = tf.function(with_max_pooling, jit_compile=True)
    with pytest.raises(ValueError, match=MAX_POOL):
        take_gradient(Mine(compiled))


@pytest.mark.parametrize("eagerly", [False, True])
def test_no_fallback_hides_a_missing_second_derivative(eagerly):
    with pytest.raises(ValueError, match="Layer 'mine' .*Dilation2D"):
        take_gradient(Mine(dilated, weight=True), eagerly=eagerly)


@pytest.mark.parametrize("eagerly", [False, True])
def test_operations_before_the_adapted_layers_are_not_refused(eagerly):
    assert take_gradient(Mine(dilated), adapt=1, eagerly=eagerly)


def test_derivatives_that_no_adapted_weight_needs_are_not_refused():
    """The missing derivative is with respect to boxes, which are fixed here."""

    def crop(x):
        of_box = tf.range(tf.shape(x)[0])
        boxes = tf.tile([[0.1, 0.2, 0.9, 0.7]], [tf.shape(x)[0], 1])
        return tf.image.crop_and_resize(x, boxes, of_box, [4, 4])

    assert take_gradient(Mine(crop))


def test_an_unknown_operation_is_refused():
    """For instance, a user's own operation without a second derivative."""
    with pytest.raises(ValueError, match="Layer 'mine' .*PreventGradient"):
        take_gradient(Mine(with_last_gradient))


@tf.custom_gradient
def with_last_gradient(x):
    return tf.sin(x), lambda upstream: tf.raw_ops.PreventGradient(
        input=upstream * tf.cos(x)
    )


@pytest.mark.parametrize("second_order", [False, True])
def test_operations_without_a_derivative_are_named(second_order):
    layer = Mine(lambda x: tf.image.adjust_contrast(x, 2.0))
    with pytest.raises(
        ValueError, match="Layer 'mine' .*no derivative.*AdjustContrastv2"
    ):
        take_gradient(layer, second_order=second_order)


def differentiate_loss(loss, again=True):
    run = tf.function(
        lambda x: differentiate(lambda: loss(x), [x], again=again),
        autograph=False,
    )
    return run(normal([2, 3]))[0][0]


@pytest.mark.slow
def test_ctc_loss_is_refused():
    def loss(x):
        logits = tf.cast(x[:, tf.newaxis], tf.float32)
        labels = tf.constant([[1], [1]])
        length = tf.constant([1, 1])
        value = ops.ctc_loss(labels, logits, length, length)
        return tf.reduce_sum(value), None

    with pytest.raises(ValueError, match="its loss calls .*ctc_loss.*first"):
        differentiate_loss(loss)
