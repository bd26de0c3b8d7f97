import keras
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_meta.batching.task_batched import TaskBatched
from tests.reference import assert_close
from tests.reference import assert_equals_loop
from tests.reference import call_in_loop
from tests.reference import derivatives
from tests.reference import few
from tests.reference import normal
from tests.reference import one_layer
from tests.reference import stacked

layers = keras.layers
CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
TRANSPOSES = (
    layers.Conv1DTranspose,
    layers.Conv2DTranspose,
    layers.Conv3DTranspose,
)


@st.composite
def geometries(draw, rank, paddings=("valid", "same"), kind="plain"):
    """Arguments of a layer, and a space that its window fits into.

    Plain convolutions take strides or dilation, transposes run with strides
    alone on a CPU, depthwise ones take both, equal along all axes.
    """
    sizes = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    window = draw(sizes)
    strides, dilation = draw(sizes), draw(sizes)
    if kind == "depthwise":
        strides, dilation = strides[:1] * rank, dilation[:1] * rank
    elif kind == "transpose" or draw(st.booleans()):
        dilation = [1] * rank
    else:
        strides = [1] * rank
    spans = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    more = draw(st.lists(st.integers(0, 2), min_size=rank, max_size=rank))
    space = [span + m for span, m in zip(spans, more, strict=True)]
    arguments = {
        "kernel_size": window,
        "strides": strides,
        "dilation_rate": dilation,
        "padding": draw(st.sampled_from(paddings)),
        "use_bias": draw(st.booleans()),
        "activation": draw(st.sampled_from([None, "tanh"])),
    }
    return arguments, space


def channels_first_pair(make, space, channels):
    """A channels_first model and its channels_last twin.

    Most plain layers cannot run channels_first on a CPU.
    """
    rank = len(space)
    model = one_layer(make("channels_first"), [channels, *space])
    twin = keras.Sequential(
        [
            keras.Input([channels, *space]),
            layers.Permute([*range(2, rank + 2), 1]),
            make("channels_last"),
            layers.Permute([rank + 1, *range(1, rank + 1)]),
        ]
    )
    return model, twin


def check(make, space, channels, data_format, tasks, n):
    """Compares one layer, `make(data_format)`, with the loop."""
    if data_format == "channels_first":
        model, twin = channels_first_pair(make, space, channels)
        x = normal([tasks, n, channels, *space])
    else:
        model = one_layer(make(data_format), [*space, channels])
        twin, x = None, normal([tasks, n, *space, channels])
    batched = assert_equals_loop(model, x, twin=twin)
    assert not batched.has_fallback


formats = st.sampled_from(["channels_last", "channels_last", "channels_first"])


@pytest.mark.slow_variants("1", "3")
@pytest.mark.parametrize("rank", [1, 2, 3])
@few
@given(data=st.data(), tasks=st.integers(1, 3), n=st.integers(1, 2))
def test_convolution_equals_the_loop(rank, data, tasks, n):
    paddings = ("valid", "same", "causal") if rank == 1 else ("valid", "same")
    arguments, space = data.draw(geometries(rank, paddings))
    check(
        lambda data_format: CONVOLUTIONS[rank - 1](
            2, **arguments, data_format=data_format
        ),
        space,
        3,
        data.draw(formats),
        tasks,
        n,
    )


GROUPED = [
    (1, {"strides": 2, "padding": "same"}, "channels_last"),
    (1, {"dilation_rate": 2, "padding": "causal"}, "channels_last"),
    (2, {"strides": [2, 1]}, "channels_first"),
    # The plain layer compiles each of its calls.
    pytest.param(
        2,
        {"dilation_rate": [1, 2], "padding": "same"},
        "channels_last",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        3,
        {"strides": [1, 2, 1], "padding": "same"},
        "channels_last",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.slow_variants(
    "2-arguments2-channels_first",
    "1-arguments0-channels_last",
    "1-arguments1-channels_last",
)
@pytest.mark.parametrize("rank, arguments, data_format", GROUPED)
def test_grouped_convolution_equals_the_loop(rank, arguments, data_format):
    check(
        lambda data_format: CONVOLUTIONS[rank - 1](
            4, 2, **arguments, groups=2, data_format=data_format
        ),
        [4, 3, 3][:rank],
        6,
        data_format,
        2,
        2,
    )


@pytest.mark.slow_variants("1", "3")
@pytest.mark.parametrize("rank", [1, 2, 3])
@few
@given(data=st.data(), tasks=st.integers(1, 3))
def test_transposed_convolution_equals_the_loop(rank, data, tasks):
    arguments, space = data.draw(geometries(rank, kind="transpose"))
    check(
        lambda data_format: TRANSPOSES[rank - 1](
            2, **arguments, data_format=data_format
        ),
        space,
        3,
        data.draw(formats),
        tasks,
        2,
    )


@pytest.mark.slow_variants("0-valid", "0-same", "1-valid", "2-same")
@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize("extra", [0, 1, 2])
def test_output_padding_equals_the_loop(padding, extra):
    check(
        lambda data_format: layers.Conv1DTranspose(
            2, 3, strides=3, padding=padding, output_padding=extra
        ),
        [4],
        2,
        "channels_last",
        2,
        1,
    )


@pytest.mark.slow
@pytest.mark.parametrize("rank", [1, 2])
@few
@given(data=st.data(), multiplier=st.integers(1, 2), tasks=st.integers(1, 3))
def test_depthwise_convolution_equals_the_loop(rank, data, multiplier, tasks):
    arguments, space = data.draw(geometries(rank, kind="depthwise"))
    layer = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)[rank - 1]
    check(
        lambda data_format: layer(
            **arguments, depth_multiplier=multiplier, data_format=data_format
        ),
        space,
        3,
        data.draw(formats),
        tasks,
        2,
    )


@pytest.mark.slow_variants("1")
@pytest.mark.parametrize("rank", [1, 2])
@few
@given(data=st.data(), multiplier=st.integers(1, 2), tasks=st.integers(1, 3))
def test_separable_convolution_equals_the_loop(rank, data, multiplier, tasks):
    arguments, space = data.draw(geometries(rank, kind="depthwise"))
    layer = (layers.SeparableConv1D, layers.SeparableConv2D)[rank - 1]
    check(
        lambda data_format: layer(
            2,
            **arguments,
            depth_multiplier=multiplier,
            data_format=data_format,
        ),
        space,
        3,
        data.draw(formats),
        tasks,
        2,
    )


PARTIAL = [
    (lambda: layers.Conv1D(2, 3, padding="causal"), [6, 3]),
    (lambda: layers.Conv2D(2, 3, strides=2, padding="same"), [5, 4, 3]),
    pytest.param(
        lambda: layers.Conv2D(4, 2, groups=2),
        [3, 4, 2],
        marks=pytest.mark.slow,
    ),
    (lambda: layers.Conv2DTranspose(2, 3, strides=2), [3, 2, 3]),
    (lambda: layers.DepthwiseConv2D(2), [4, 3, 2]),
    (lambda: layers.SeparableConv2D(3, 2), [4, 3, 2]),
]


@pytest.mark.slow_variants("<lambda>-shape2", "<lambda>-shape3")
@pytest.mark.parametrize("make, shape", PARTIAL)
def test_each_weight_may_adapt_alone(make, shape):
    model = one_layer(make(), shape)
    for variable in model.trainable_variables:
        assert_equals_loop(model, normal([2, 2, *shape]), adapted=[variable])


@pytest.mark.slow
def test_convolution_of_unknown_space_equals_the_loop():
    model = keras.Sequential(
        [
            keras.Input([None, None, 2]),
            layers.Conv2D(3, 3, strides=2, padding="same", activation="tanh"),
            layers.SeparableConv2D(2, 2),
            layers.MaxPooling2D(2, padding="same"),
        ]
    )
    variables = model.trainable_variables
    batched = TaskBatched(model, variables)
    weights = stacked(variables, 2)
    x = normal([2, 3, 6, 7, 2])

    @tf.function(
        input_signature=[
            [
                tf.TensorSpec([2, None, None, None, 2], tf.float64),
                *(tf.TensorSpec(w.shape, w.dtype) for w in weights),
            ]
        ],
        autograph=False,
    )
    def call(values):
        return batched(values[1:], [], values[0]).outputs

    def loop(values):
        return call_in_loop(model, variables, values[1:], [], values[0])[0]

    actual = derivatives(call, [x, *weights])
    assert_close(actual, derivatives(loop, [x, *weights]))


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_dilated_transpose_is_the_transpose_with_a_sparse_kernel(padding):
    # The plain layer does not run with dilation on a CPU.
    model = one_layer(
        layers.Conv1DTranspose(2, 3, dilation_rate=2, padding=padding), [4, 3]
    )
    sparse = one_layer(layers.Conv1DTranspose(2, 5, padding=padding), [4, 3])
    batched = TaskBatched(model, model.trainable_variables)
    values = [
        normal([2, 2, 4, 3]),
        *stacked(model.trainable_variables, 2),
    ]

    def loop(values):
        x, kernel, bias = values
        zeros = tf.zeros_like(kernel)
        kernel = tf.reshape(tf.stack([kernel, zeros], 2), [2, 6, 2, 3])[:, :5]
        weights = [kernel, bias]
        return call_in_loop(sparse, sparse.trainable_variables, weights, [], x)[
            0
        ]

    actual = derivatives(lambda v: batched(v[1:], [], v[0]).outputs, values)
    assert_close(actual, derivatives(loop, values))


def test_transpose_of_unknown_space_is_refused():
    model = one_layer(layers.Conv1DTranspose(2, 3), [None, 2])
    variables = model.trainable_variables
    batched = TaskBatched(model, variables)

    @tf.function(
        input_signature=[tf.TensorSpec([2, 1, None, 2], tf.float64)],
        autograph=False,
    )
    def call(x):
        return batched(stacked(variables, 2), [], x).outputs

    with pytest.raises(ValueError, match="needs inputs of static size"):
        call.get_concrete_function()


@pytest.mark.slow_variants("2", "3")
@pytest.mark.parametrize("rank", [1, 2, 3])
@few
@given(data=st.data(), tasks=st.integers(1, 3))
def test_shared_convolution_for_xla_equals_the_layer(rank, data, tasks):
    paddings = ("valid", "same", "causal") if rank == 1 else ("valid", "same")
    arguments, space = data.draw(geometries(rank, paddings))
    model = keras.Sequential(
        [
            keras.Input([*space, 2]),
            CONVOLUTIONS[rank - 1](3, bias_initializer="normal", **arguments),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    batched = TaskBatched(model, model.layers[-1].trainable_variables)
    weights = stacked(batched.adapted, tasks)
    x = normal([tasks, 2, *space, 2])

    def outputs(xla):
        return lambda values: (
            batched(values[:-1], [], values[-1], xla=xla).outputs
        )

    values = [*weights, x]
    actual = derivatives(outputs(xla=True), values)
    expected = derivatives(outputs(xla=False), values)
    for a, b in zip(actual, expected, strict=True):
        assert_close(a, b)
