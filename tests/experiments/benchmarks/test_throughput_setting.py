"""Settings that the contenders of the throughput benchmark share."""

import dataclasses

import keras
import numpy as np
import pytest

from experiments.benchmarks import setting as setting_lib
from experiments.benchmarks.peers import keras_meta_maml
from experiments.benchmarks.peers import tf_map_fn

QUERY = 2 * (2 * 9 + 3 * (3 * 9 + 2))


@pytest.mark.parametrize(
    ("options", "flops"),
    [
        # 9 products in each convolution, 2 in the dense layer; 2 support
        # and 2 query images.
        ({}, 2 * (2 * (4 * 9 + 9 * (3 * 9 + 2)) + QUERY)),
        ({"steps": 3}, 2 * (3 * 2 * (4 * 9 + 9 * (3 * 9 + 2)) + QUERY)),
        ({"first_order": True}, 2 * (2 * (2 * 9 + 3 * (3 * 9 + 2)) + QUERY)),
        (
            {"head_only": True, "steps": 3},
            2 * (2 * (2 * 9 + 3 * 3 * 9 + 3 * 6 * 2) + QUERY),
        ),
        (
            {"head_only": True, "steps": 3, "first_order": True},
            2 * (2 * (9 + 3 * 9 + 3 * 2 * 2) + QUERY),
        ),
    ],
)
def test_flops_of_a_one_pixel_net(options, flops):
    setting = setting_lib.Setting(
        ways=2, tasks=1, filters=1, image_size=2, **options
    )
    assert setting_lib.meta_step_flops(setting) == flops


@pytest.mark.parametrize(
    ("network", "products"),
    [
        ("perceptron", [49 * 8, 64, 64, 64, 8 * 5]),
        (
            "transformer",
            [
                7 * 7 * 8,
                *[7 * 4 * 64 + 7 * 2 * 8 * 16, 2 * 7 * 7 * 8] * 2,
                8 * 5,
            ],
        ),
    ],
)
def test_products_of_other_networks(network, products):
    setting = setting_lib.Setting(network=network, filters=8, image_size=7)
    assert setting_lib.forward_products(setting) == products


@pytest.fixture
def floatx():
    before = keras.config.floatx()
    # On first use, Keras makes the policy from `floatx`.
    policy = keras.config.dtype_policy()
    yield
    keras.config.set_floatx(before)
    keras.config.set_dtype_policy(policy)


@pytest.mark.slow
@pytest.mark.usefixtures("floatx")
@pytest.mark.parametrize(
    ("network", "head_only"),
    [
        pytest.param("convolution", True, marks=pytest.mark.slow),
        ("perceptron", False),
        pytest.param("transformer", False, marks=pytest.mark.slow),
    ],
)
def test_contenders_compute_the_same(network, head_only):
    setting = setting_lib.Setting(
        network=network,
        ways=2,
        tasks=2,
        steps=2,
        filters=8,
        image_size=6,
        head_only=head_only,
        inner_rate=0.05,
    )
    losses = []
    for peer in (keras_meta_maml, tf_map_fn):
        parameters = setting_lib.initial_parameters(setting, 0, "float64")
        batches = setting_lib.make_batches(setting, 2, 1, "float64")
        step = peer.make(setting, parameters, batches)
        losses.append([step(i) for i in range(3)])
    # Keras rounds Adam's constants to float32.
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    other = dataclasses.replace(setting, head_only=not head_only)
    step = tf_map_fn.make(other, parameters, batches)
    assert abs(step(0) / losses[0][0] - 1) > 1e-4


@pytest.mark.parametrize(
    ("pool", "sizes", "features"),
    [
        (False, (84, 42, 21, 11, 6), 32),
        (True, (84, 42, 21, 10, 5), 800),
    ],
)
def test_sizes_of_mini_imagenet(pool, sizes, features):
    setting = setting_lib.Setting(
        filters=32, image_size=84, channels=3, pool=pool
    )
    assert setting.input_sizes == sizes
    assert setting.features == features
    parameters = setting_lib.initial_parameters(setting, 0)
    assert parameters[-2].shape == (features, 5)


def test_same_padding():
    assert [setting_lib.same_padding(n, 2) for n in (28, 7, 4)] == [1, 2, 1]
    assert setting_lib.same_padding(28, 1) == 2
