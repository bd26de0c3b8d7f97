import keras
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_meta.batching.task_batched import TaskBatched
from tests.reference import assert_close
from tests.reference import assert_equals_loop
from tests.reference import derivatives
from tests.reference import few
from tests.reference import normal
from tests.reference import stacked

layers = keras.layers
POOLS = (layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D)


@pytest.mark.slow_variants("1", "3")
@pytest.mark.parametrize("rank", [1, 2, 3])
@few
@given(data=st.data(), relu=st.booleans())
def test_max_pooling_equals_the_loop(rank, data, relu):
    sizes = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    window, more = data.draw(sizes), data.draw(sizes)
    space = [w + m for w, m in zip(window, more, strict=True)]
    pool = POOLS[rank - 1](
        window if rank > 1 else window[0],
        data.draw(st.none() | st.integers(1, 3)),
        data.draw(st.sampled_from(["valid", "same"])),
    )
    twin_pool = layers.Lambda(lambda x: pool_volume(x, pool))

    def build(pool):
        # After the ReLU many values tie at zero.
        first = layers.Dense(3, activation="relu" if relu else None)
        return keras.Sequential([keras.Input([*space, 2]), first, pool])

    batched = assert_equals_loop(
        build(pool),
        normal([2, 2, *space, 2]),
        twin=build(twin_pool) if rank == 3 else None,
    )
    assert not batched.has_fallback


def pool_volume(x, pool):
    """Pools planes, then depth: the operation for volumes has no float64."""
    ops = keras.ops
    n, depth, height, width, channels = x.shape
    y = ops.reshape(x, [-1, height, width, channels])
    y = ops.max_pool(y, pool.pool_size[1:], pool.strides[1:], pool.padding)
    plane = y.shape[1:3]
    y = ops.reshape(y, [-1, depth, plane[0] * plane[1], channels])
    window, stride = (pool.pool_size[0], 1), (pool.strides[0], 1)
    y = ops.max_pool(y, window, stride, pool.padding)
    return ops.reshape(y, [-1, y.shape[1], *plane, channels])


def test_the_first_of_tied_maxima_takes_the_gradient():
    model = keras.Sequential([keras.Input([4, 1]), layers.MaxPooling1D(4)])
    batched = TaskBatched(model, [])
    x = tf.constant([[[[1.0], [2.0], [2.0], [2.0]]]], tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = batched([], [], x).outputs
    gradient = tf.reshape(tape.gradient(y, x), [-1])
    assert gradient.numpy().tolist() == [0, 1, 0, 0]


def test_channels_first_max_pooling_equals_channels_last():
    model = keras.Sequential(
        [
            keras.Input([2, 5, 4]),
            layers.MaxPooling2D(3, 2, "same", data_format="channels_first"),
        ]
    )
    twin = keras.Sequential(
        [
            keras.Input([2, 5, 4]),
            layers.Permute([2, 3, 1]),
            layers.MaxPooling2D(3, 2, "same", data_format="channels_last"),
            layers.Permute([3, 1, 2]),
        ]
    )
    batched = TaskBatched(model, [])
    x = normal([2, 3, 2, 5, 4])
    outputs = batched([], [], x).outputs
    assert_close(outputs, tf.stack([twin(x[0]), twin(x[1])]))


def pooling_net():
    return keras.Sequential(
        [
            keras.Input([7, 7, 1]),
            layers.Conv2D(4, 3, activation="relu", padding="same"),
            layers.MaxPooling2D(3, 2),
            layers.Conv2D(3, 2, activation="tanh"),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )


@pytest.mark.slow
def test_xla_gives_the_second_derivative_that_no_xla_gives():
    model = pooling_net()
    variables = model.trainable_variables
    batched = TaskBatched(model, variables)
    values = [normal([2, 3, 7, 7, 1]), *stacked(variables, 2)]

    def function(values):
        return batched(values[1:], [], values[0], xla=True).outputs

    def run(values):
        return derivatives(function, values)

    compiled = tf.function(run, autograph=False, jit_compile=True)
    traced = tf.function(run, autograph=False)
    assert_close(compiled(values), traced(values))
    assert_equals_loop(model, values[0])


def test_a_caller_who_compiles_gets_the_right_second_derivative():
    """One task outside XLA is pooled by the operation that XLA gets wrong."""
    model = keras.Sequential([keras.Input([4, 4, 1]), layers.MaxPooling2D(2)])
    batched = TaskBatched(model, [])
    # In bfloat16 all of them are the same.
    x = 1.0 + 1e-4 * normal([1, 2, 4, 4, 1])

    def run(values):
        return derivatives(lambda v: batched([], [], v[0]).outputs, values)

    compiled = tf.function(run, autograph=False, jit_compile=True)
    assert_close(compiled([x]), run([x]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_task_alone_gives_ties_to_the_first(dtype):
    model = keras.Sequential(
        [keras.Input([2, 2, 1], dtype=dtype), layers.MaxPooling2D(2)]
    )
    batched = TaskBatched(model, [])
    x = tf.reshape(tf.constant([1, 2, 2, 2], dtype), [1, 1, 2, 2, 1])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = batched([], [], x).outputs
    gradient = tf.reshape(tape.gradient(y, x), [-1])
    assert gradient.numpy().tolist() == [0, 1, 0, 0]


def test_padding_never_wins():
    model = keras.Sequential(
        [keras.Input([3, 1]), layers.MaxPooling1D(3, 1, "same")]
    )
    x = -1e300 + tf.zeros([1, 2, 3, 1], tf.float64)
    outputs = TaskBatched(model, [])([], [], x).outputs
    assert_close(outputs / 1e300, x / 1e300)


ADAPTIVE = (
    layers.AdaptiveMaxPooling1D,
    layers.AdaptiveMaxPooling2D,
    layers.AdaptiveMaxPooling3D,
)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(
    ("shape", "size"),
    [([5], 2), ([6], 4), ([2], 3), ([7, 4], [3, 4]), ([4, 3, 5], [3, 1, 2])],
)
def test_adaptive_max_pooling_equals_keras(shape, size, data_format, float32):
    if len(shape) == 3 and tf.config.list_logical_devices("GPU"):
        pytest.skip("on a GPU, the gradient of Keras's own ends the process")
    make = ADAPTIVE[len(shape) - 1]
    layer = make(size, data_format=data_format)
    last = data_format == "channels_last"
    shape = [*shape, 2] if last else [2, *shape]
    model = keras.Sequential([keras.Input(shape), layer])
    # Many values tie at zero.
    x = tf.cast(tf.nn.relu(normal([2, 3, *shape])), tf.float32)

    def gradient(function):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function()
            loss = tf.reduce_sum(tf.cast(normal(y.shape, 3), y.dtype) * y * y)
        return y, tape.gradient(loss, x)

    actual = gradient(lambda: TaskBatched(model, [])([], [], x).outputs)
    expected = gradient(lambda: tf.stack([layer(x[0]), layer(x[1])]))
    assert_close(actual, expected, 1e-6)


@pytest.mark.slow
def test_adaptive_max_pooling_has_its_second_derivative_under_xla():
    model = keras.Sequential(
        [keras.Input([5, 5, 1]), layers.AdaptiveMaxPooling2D(2)]
    )
    batched = TaskBatched(model, [])
    # In bfloat16 all of them are the same.
    x = 1.0 + 1e-4 * normal([2, 1, 5, 5, 1])

    def run(values):
        return derivatives(
            lambda v: batched([], [], v[0], xla=True).outputs, values
        )

    compiled = tf.function(run, autograph=False, jit_compile=True)
    assert_close(compiled([x]), run([x]))
