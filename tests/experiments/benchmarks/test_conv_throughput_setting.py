"""What the contenders of the throughput benchmark have in common."""

import pytest

from experiments.benchmarks import setting as setting_lib


@pytest.mark.parametrize(
    ("first_order", "flops"),
    [
        # 9 products in each convolution, 2 in the dense layer; 2 support
        # and 2 query images.
        (False, 2 * ((2 * 4 + 2 * 2) * 9 + (2 * 9 + 2 * 3) * (3 * 9 + 2))),
        (True, 2 * ((2 * 2 + 2 * 2) * 9 + (2 * 3 + 2 * 3) * (3 * 9 + 2))),
    ],
)
def test_flops_of_a_one_pixel_net(first_order, flops):
    setting = setting_lib.Setting(
        ways=2, tasks=1, filters=1, image_size=2, first_order=first_order
    )
    assert setting_lib.meta_step_flops(setting) == flops


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
