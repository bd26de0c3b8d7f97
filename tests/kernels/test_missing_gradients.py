"""Supplied second derivatives equal those of explicit formulas."""

import numpy as np
import pytest
import tensorflow as tf

import keras_meta
from keras_meta._keras import give_gradient
from keras_meta._keras import is_differentiable
from tests.reference import normal

assert keras_meta  # Importing it registers the derivatives.


def derivatives(function, x, order=2):
    """Derivatives of a nonlinear function of `function(x)`, up to `order`."""
    y = function(x)
    weight = tf.cast(normal(y.shape, 1), y.dtype)

    def differentiated(x, order):
        if order == 0:
            return tf.reduce_sum(weight * tf.sin(function(x)))
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = differentiated(x, order - 1)
            along = tf.cast(normal(y.shape, order), y.dtype)
            total = tf.reduce_sum(along * y)
        return tf.convert_to_tensor(tape.gradient(total, x))

    return [differentiated(x, k) for k in range(1, order + 1)]


def as_matrix(function, x):
    """The linear map `function`, as a product with its matrix."""
    size = x.shape.num_elements()
    basis = tf.reshape(tf.eye(size, dtype=x.dtype), [size, *x.shape])
    rows = tf.stack([function(b) for b in basis])
    return lambda x: tf.tensordot(tf.reshape(x, [-1]), rows, 1)


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def assert_exact(function, x, reference, order=2):
    """Compares with a reference, eagerly and in a graph."""
    expected = derivatives(reference, x, order)
    assert np.abs(expected[-1]).max() > 1e-2
    assert_same(derivatives(function, x, order), expected)
    traced = tf.function(function, autograph=False)
    assert_same(derivatives(traced, x, order), expected)


def image(channels=1, dtype="float32"):
    return tf.cast(2 * normal([1, 4, 3, channels]), dtype)


def resized(size, method="bilinear", **kwargs):
    return lambda x: tf.image.resize(x, size, method, **kwargs)


BOXES = [[0.1, 0.2, 0.9, 0.7], [0.8, 0.0, -0.3, 1.2]]
LINEAR = {
    **{
        f"{method}{' antialiased' * antialias}": resized(
            [7, 2], method, antialias=antialias
        )
        for method in ("bilinear", "nearest", "bicubic", "lanczos3", "gaussian")
        for antialias in (False, True)
    },
    "legacy": lambda x: tf.compat.v1.image.resize(x, [7, 2]),
    "aligned": lambda x: tf.compat.v1.image.resize(
        x, [7, 2], align_corners=True
    ),
    "crop": lambda x: tf.image.crop_and_resize(x, BOXES, [0, 0], [3, 5]),
    "crop nearest": lambda x: tf.image.crop_and_resize(
        x, BOXES, [0, 0], [3, 5], "nearest"
    ),
    **{
        name: lambda x, combine=combine: combine(x[0], [0, 3, 1], [0, 0, 1])
        for name, combine in {
            "segment sum": tf.sparse.segment_sum,
            "segment mean": tf.sparse.segment_mean,
            "segment sqrt n": tf.sparse.segment_sqrt_n,
        }.items()
    },
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operations_equal_their_matrix(name):
    function = LINEAR[name]
    assert_exact(function, image(), as_matrix(function, image()))


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_bilinear_resizing_is_exact_in_other_dtypes(dtype):
    x = image(dtype=dtype)
    exact = as_matrix(resized([6, 6]), image())
    actual = derivatives(resized([6, 6]), x)
    expected = derivatives(lambda x: exact(tf.cast(x, tf.float32)), x)
    assert actual[1].dtype == dtype
    np.testing.assert_allclose(actual[1], expected[1], atol=0.05, rtol=0.01)


@pytest.mark.parametrize("method", ["bilinear", "nearest", "bicubic"])
def test_third_derivatives_of_resizing_equal_the_matrix(method):
    function = resized([5, 5], method)
    assert_exact(function, image(), as_matrix(function, image()), order=3)


def test_sum_of_embeddings_equals_its_matrix():
    ids = tf.sparse.from_dense([[1, 2], [3, 0]])

    def embed(table):
        return tf.nn.embedding_lookup_sparse(
            table, ids, None, combiner="mean", allow_fast_lookup=True
        )

    table = tf.cast(normal([4, 3]), "float32")
    assert_exact(embed, table, as_matrix(embed, table))


def test_softsign_equals_its_formula():
    x = normal([3, 4])
    assert_exact(tf.nn.softsign, x, lambda x: x / (1 + tf.abs(x)), order=3)


def test_local_response_normalization_equals_its_formula():
    def normalize(x):
        return tf.nn.lrn(x, 1, bias=1.5, alpha=0.7, beta=0.6)

    def formula(x):
        padded = tf.pad(x * x, [(0, 0)] * 3 + [(1, 1)])
        total = padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]
        return x / (1.5 + 0.7 * total) ** 0.6

    assert_exact(normalize, image(5), formula)


def test_cross_entropy_of_logits_equals_its_formula():
    """Also where labels are learned, or come from the logits."""

    def labels(x):
        return tf.nn.softmax(x * x)

    def formula(x):
        return -tf.reduce_sum(labels(x) * tf.nn.log_softmax(x), axis=1)

    def cross_entropy(x):
        return tf.nn.softmax_cross_entropy_with_logits(labels(x), x)

    assert_exact(cross_entropy, normal([2, 3]), formula, order=3)


def test_gradient_of_a_crop_depends_on_its_boxes():
    x = image()
    along = tf.cast(normal(x.shape, 3), x.dtype)

    def gradient(boxes):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.image.crop_and_resize(x, boxes, [0], [3, 3])
            total = tf.reduce_sum(tf.cast(normal(y.shape), y.dtype) * y)
        return tf.reduce_sum(along * tape.gradient(total, x))

    boxes = tf.constant([[0.12, 0.21, 0.83, 0.74]])
    with tf.GradientTape() as tape:
        tape.watch(boxes)
        y = gradient(boxes)
    for i, actual in enumerate(tape.gradient(y, boxes)[0]):
        step = 0.01 * tf.one_hot([i], 4)
        expected = (gradient(boxes + step) - gradient(boxes - step)) / 0.02
        np.testing.assert_allclose(actual, expected, atol=1e-3)


def in_map(resize):
    """Resizes with the inner tape around a loop."""
    return lambda x: tf.map_fn(resize, tf.stack([x, 2 * x]))


def in_body(resize):
    """Resizes in a loop with the inner tape in the loop's body."""

    def step(i, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(tf.sin(resize(x)))
        return i + 1, x - tape.gradient(y, x)

    return lambda x: tf.while_loop(
        lambda i, _: i < 2, step, (0, x), maximum_iterations=2
    )[1]


@pytest.mark.slow
@pytest.mark.parametrize("loop", [in_map, in_body])
def test_bilinear_resizing_is_exact_in_loops(loop):
    x = image()
    exact = as_matrix(resized([5, 5]), x)

    def run(resize):
        traced = tf.function(
            lambda x: derivatives(loop(resize), x), autograph=False
        )
        return traced(x)

    assert_same(run(lambda x: tf.reshape(resized([5, 5])(x), [-1])), run(exact))


@pytest.mark.slow
def test_bilinear_resizing_is_exact_under_xla():
    x = image()
    function = resized([8, 6])
    run = tf.function(
        lambda x: derivatives(function, x), autograph=False, jit_compile=True
    )
    assert_same(run(x), derivatives(as_matrix(function, x), x))


def test_existing_gradients_are_kept():
    give_gradient("Sin", lambda op, upstream: 0 * upstream)
    x = tf.constant(0.3)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.sin(x)
    assert tape.gradient(y, x) == tf.cos(x)


def test_tensorflow_treats_no_other_gradients_as_constant():
    """If a new TensorFlow adds one, it must be supplied or refused."""
    gradients = [
        name
        for name in dir(tf.raw_ops)
        if name.endswith(("Grad", "Gradient"))
        and not name.startswith(("TensorArray", "StopGradient"))
        and is_differentiable(name) is False
    ]
    assert gradients == [
        "FakeQuantWithMinMaxArgsGradient",
        "FakeQuantWithMinMaxVarsGradient",
        "FakeQuantWithMinMaxVarsPerChannelGradient",
        "SparseAddGrad",
    ]
