import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_meta.kernels.task_convolution import Geometry
from keras_meta.kernels.task_convolution import convolve
from keras_meta.kernels.task_convolution import correlate
from keras_meta.kernels.task_convolution import transpose
from tests.reference import assert_close
from tests.reference import derivatives
from tests.reference import few
from tests.reference import normal

N, CHANNELS, FILTERS = 2, 3, 2


@st.composite
def geometries(draw):
    """Any window whose dilated span fits into the padded input."""
    rank = draw(st.integers(1, 3))
    axes = []
    for _ in range(rank):
        window = draw(st.integers(1, 3))
        stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        pads = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
        least = max((window - 1) * dilation + 1 - sum(pads), 1)
        size = draw(st.integers(least, least + 3))
        axes.append((size, window, stride, dilation, pads))
    return Geometry(*zip(*axes, strict=True))


def tensors(tasks, geometry):
    x = normal([tasks, N, *geometry.size, CHANNELS], 1)
    w = normal([tasks, FILTERS, geometry.taps * CHANNELS], 2)
    y = normal([tasks, N, *geometry.output, FILTERS], 3)
    return x, w, y


def dense(geometry):
    """Returns the convolution as a 0-1 array `[outputs, taps, inputs]`.

    Built index by index, so that it shares no code with the package.
    """
    outputs = list(np.ndindex(*geometry.output))
    array = np.zeros([len(outputs), geometry.taps, *geometry.size])
    for o, place in enumerate(outputs):
        for t, tap in enumerate(np.ndindex(*geometry.window)):
            where = tuple(
                p * s + k * d - pad[0]
                for p, s, k, d, pad in zip(
                    place,
                    geometry.strides,
                    tap,
                    geometry.dilation,
                    geometry.pads,
                    strict=True,
                )
            )
            if all(
                0 <= i < n for i, n in zip(where, geometry.size, strict=True)
            ):
                array[(o, t, *where)] = 1
    return array.reshape(len(outputs), geometry.taps, -1)


def inner(a, b):
    return tf.reduce_sum(a * b)


many = st.integers(1, 3)


@few
@given(geometry=geometries(), tasks=many)
def test_all_three_equal_the_explicit_sum(geometry, tasks):
    x, w, y = tensors(tasks, geometry)
    array = dense(geometry)
    flat_x = x.numpy().reshape(tasks, N, -1, CHANNELS)
    flat_y = y.numpy().reshape(tasks, N, -1, FILTERS)

    def sum_of(result, *terms):
        return np.einsum(f"otx,{result}", array, *terms, optimize=True)

    taps_w = w.numpy().reshape(tasks, FILTERS, -1, CHANNELS)
    expected = sum_of("bnxc,bftc->bnof", flat_x, taps_w)
    assert_close(convolve(x, w, geometry), expected.reshape(y.shape))
    expected = sum_of("bnof,bftc->bnxc", flat_y, taps_w)
    assert_close(transpose(y, w, geometry), expected.reshape(x.shape))
    expected = sum_of("bnxc,bnof->bftc", flat_x, flat_y)
    assert_close(correlate(x, y, geometry), expected.reshape(w.shape))


@few
@given(geometry=geometries(), tasks=many)
def test_the_three_are_adjoint(geometry, tasks):
    x, w, y = tensors(tasks, geometry)
    product = inner(convolve(x, w, geometry), y)
    assert_close(inner(x, transpose(y, w, geometry)), product)
    assert_close(inner(w, correlate(x, y, geometry)), product)


@pytest.mark.parametrize("name", ["convolve", "transpose", "correlate"])
@few
@given(geometry=geometries(), tasks=many)
def test_derivatives_equal_those_of_the_explicit_sum(name, geometry, tasks):
    x, w, y = tensors(tasks, geometry)
    array = tf.constant(dense(geometry))

    def flat(z):
        return tf.reshape(z, [tasks, N, -1, z.shape[-1]])

    def of_taps(w):
        return tf.reshape(w, [tasks, FILTERS, -1, CHANNELS])

    if name == "convolve":
        function, pair = convolve, [x, w]

        def plain(x, w):
            z = tf.einsum("otx,bnxc,bftc->bnof", array, flat(x), of_taps(w))
            return tf.reshape(z, y.shape)
    elif name == "transpose":
        function, pair = transpose, [y, w]

        def plain(y, w):
            z = tf.einsum("otx,bnof,bftc->bnxc", array, flat(y), of_taps(w))
            return tf.reshape(z, x.shape)
    else:
        function, pair = correlate, [x, y]

        def plain(x, y):
            z = tf.einsum("otx,bnxc,bnof->bftc", array, flat(x), flat(y))
            return tf.reshape(z, w.shape)

    actual = derivatives(lambda v: function(*v, geometry), pair)
    assert_close(actual, derivatives(lambda v: plain(*v), pair))


@pytest.mark.slow_variants("True")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_traced_with_unknown_tasks_and_examples(jit_compile):
    geometry = Geometry((5, 4), (3, 2), (2, 1), (1, 2), ((1, 1), (0, 1)))
    x, w, _ = tensors(2, geometry)

    def run(x, w):
        return derivatives(lambda v: convolve(*v, geometry), [x, w])

    expected = run(x, w)
    if not jit_compile:

        def run(x, w):
            with tf.GradientTape() as tape:
                tape.watch([x, w])
                y = convolve(x, w, geometry)
                loss = tf.reduce_sum(
                    tf.sin(y) * normal(expected[0][0].shape, 100)
                )
            return [y], tape.gradient(loss, [x, w])

        expected = expected[:2]
    unknown = [None, None] if not jit_compile else [2, N]
    traced = tf.function(
        run,
        input_signature=[
            tf.TensorSpec([*unknown, *x.shape[2:]], tf.float64),
            tf.TensorSpec([unknown[0], *w.shape[1:]], tf.float64),
        ],
        autograph=False,
        jit_compile=jit_compile,
    )
    assert_close(traced(x, w), expected)
