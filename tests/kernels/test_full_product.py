import numpy as np
import pytest
import tensorflow as tf

from keras_meta.kernels import full_product as full_product_lib
from keras_meta.kernels.full_product import full_product


def _factors(dtype):
    a, b = np.random.default_rng(0).normal(size=(2, 3, 40, 40))
    return tf.constant(a, dtype), tf.constant(b, dtype)


def _derivatives(product, a, b, **options):
    with tf.GradientTape() as tape:
        tape.watch([a, b])
        y = product(a, b, **options)
        loss = tf.reduce_sum(y**2)
    return y, *tape.gradient(loss, [a, b])


@pytest.fixture
def rounding(monkeypatch):
    """Behaves as on a GPU that would round float32."""
    monkeypatch.setattr(full_product_lib, "_rounds_products", lambda: True)


@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
def test_float32_is_computed_in_float64(rounding, transpose_a, transpose_b):
    options = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    a, b = _factors("float32")
    exact = _derivatives(
        tf.matmul, tf.cast(a, "float64"), tf.cast(b, "float64"), **options
    )
    for x, y in zip(
        _derivatives(full_product, a, b, **options), exact, strict=True
    ):
        assert x.dtype == "float32"
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(
        full_product(a, b, **options), tf.cast(exact[0], "float32")
    )


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_types_are_as_they_are(rounding, dtype):
    a, b = _factors(dtype)
    product = full_product(a, b)
    assert product.dtype == dtype
    np.testing.assert_array_equal(product, tf.matmul(a, b))


def test_a_cpu_multiplies_as_tensorflow_does():
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    a, b = _factors("float32")
    np.testing.assert_array_equal(full_product(a, b), tf.matmul(a, b))
