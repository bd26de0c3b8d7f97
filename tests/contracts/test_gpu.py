"""A GPU trains as the CPU does."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_meta
from keras_meta.kernels.full_product import full_product
from tests.conftest import computing_in
from tests.contracts.test_learners import ROWS
from tests.contracts.test_learners import loss_of
from tests.contracts.test_learners import tasks_of
from tests.learners.helpers import WAYS
from tests.learners.helpers import classification
from tests.learners.helpers import compiled
from tests.learners.helpers import crossentropy
from tests.learners.helpers import dataset
from tests.learners.helpers import run_python
from tests.learners.helpers import weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not tf.config.list_physical_devices("GPU"), reason="needs a GPU"
    ),
]

COMPUTE_IN_FLOAT32 = (
    "CoordinatewiseLSTM",
    "HierarchicalRNN",
    "MetaLearnerLSTM",
)
IMAGE, SEQUENCE = (8, 8, 3), (5, 6)


def _convolution():
    return [
        layers.Conv2D(4, 3, 2, padding="same"),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2D(4, 3, padding="same", activation="softplus"),
        layers.MaxPooling2D(),
    ]


def _depthwise():
    return [
        layers.DepthwiseConv2D(3, 2, depth_multiplier=2),
        layers.GroupNormalization(2),
        layers.SeparableConv2D(4, 3, activation="tanh"),
    ]


def _transposed():
    return [
        layers.Conv2DTranspose(4, 3, 2, activation="tanh"),
        layers.GlobalAveragePooling2D(),
    ]


def _attention():
    attend = layers.MultiHeadAttention(2, 3)
    return [lambda x: attend(x, x), layers.LayerNormalization()]


# Name: shape of an input, and a function that makes the layers.
NETWORKS = {
    "convolution": (IMAGE, _convolution),
    "depthwise": (IMAGE, _depthwise),
    "transposed": (IMAGE, _transposed),
    "attention": (SEQUENCE, _attention),
    "GRU": (SEQUENCE, lambda: [layers.GRU(4, return_sequences=True)]),
    "LSTM": (SEQUENCE, lambda: [layers.LSTM(4)]),
}


def _train_row(name, jit_compile):
    learner = compiled(
        ROWS[name](), loss=loss_of(name), jit_compile=jit_compile
    )
    learner.fit(dataset(tasks_of(name, 2)), verbose=0)
    return learner


def _train_memory(jit_compile):
    """Trains a memory of the paper's size, with inputs as long as images'."""
    learner = keras_meta.MANN(
        keras.Sequential([keras.Input([64]), layers.Identity()]),
        WAYS,
        keras_meta.sequence.MemoryCell(controller="dense"),
    )
    compiled(learner, loss=crossentropy(), jit_compile=jit_compile)
    learner.fit(dataset(classification(16, shape=(64,))), verbose=0)
    return learner


def _train_network(name, meta_gradient, jit_compile):
    shape, make_layers = NETWORKS[name]
    inputs = x = keras.Input(shape)
    for layer in make_layers():
        x = layer(x)
    x = layers.Dense(WAYS)(layers.Flatten()(x))
    model = keras.Model(inputs, x)
    learner = keras_meta.MAML(model, 0.1, 2, meta_gradient=meta_gradient)
    compiled(learner, loss=crossentropy(), jit_compile=jit_compile)
    learner.fit(dataset(classification(2, shape=shape)), verbose=0)
    return learner


CASES = {
    f"{name}, XLA {jit}": (_train_row, name, jit)
    for name in ROWS
    for jit in (False, True)
}
# TensorFlow's XLA for CPUs has no second derivative of recurrent layers.
CASES |= {
    f"{name}, {order}, XLA {jit}": (_train_network, name, order, jit)
    for name in NETWORKS
    for order in ("unrolled", "first_order")
    for jit in (False, True)
    if (name not in ("GRU", "LSTM") or order == "first_order" or not jit)
}
# XLA may choose other kernels for float32, as for the memory's top_k.
IN_FLOAT32 = {
    f"memory in float32, XLA {jit}": (_train_memory, jit)
    for jit in (False, True)
}


def train(name: str) -> list[np.ndarray]:
    """Returns the weights of a case after two meta-steps."""
    function, *arguments = (CASES | IN_FLOAT32)[name]
    with computing_in("float32" if name in IN_FLOAT32 else "float64"):
        keras.utils.set_random_seed(0)
        return weights(function(*arguments))


@pytest.mark.parametrize("name", [*CASES, *IN_FLOAT32])
def test_a_gpu_trains_as_the_cpu(name, tmp_path):
    path = tmp_path / "weights.npz"
    code = f"""
        import numpy as np
        import tensorflow as tf
        from tests.contracts import test_gpu

        assert not tf.config.list_physical_devices("GPU")
        np.savez({str(path)!r}, *test_gpu.train({name!r}))
    """
    result = run_python(code, CUDA_VISIBLE_DEVICES="-1")
    assert result.returncode == 0, result.stderr[-3000:]
    expected = np.load(path).values()
    rounds = name in IN_FLOAT32 or name.startswith(COMPUTE_IN_FLOAT32)
    tolerance = 1e-5 if rounds else 1e-11
    for a, b in zip(train(name), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_full_products_are_not_rounded():
    factors = np.random.default_rng(0).normal(size=(2, 64, 64))
    a, b = tf.cast(factors, "float32")
    expected = tf.matmul(tf.cast(a, "float64"), tf.cast(b, "float64"))
    tf.config.experimental.enable_tensor_float_32_execution(True)
    try:
        plain, full = tf.matmul(a, b), full_product(a, b)
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(False)
    assert np.abs(plain - expected).max() > 1e-3
    np.testing.assert_allclose(full, expected, rtol=1e-6, atol=1e-6)
