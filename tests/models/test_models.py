import keras
import numpy as np
import pytest

from keras_meta import models


@pytest.mark.parametrize(
    ("build", "input_shape", "output_shape", "parameters"),
    [
        # 1 * 40 + 40, 40 * 40 + 40, 40 + 1
        (models.sinusoid_mlp, (1,), (1,), 1761),
        # 3 * 4 + 4, 4 * 2 + 2, and a standard deviation for each coordinate
        (lambda: models.gaussian_mlp(3, 2, [4]), (3,), (4,), 16 + 10 + 2),
        # 9 * 64 + 3 * 9 * 64 * 64 kernels, 4 * 64 biases, 8 * 64 of batch
        # normalization and as many averages, 64 * 5 + 5
        (
            lambda: models.omniglot_conv(5),
            (28, 28, 1),
            (5,),
            576 + 3 * 36864 + 256 + 512 + 512 + 325,
        ),
        (
            lambda: models.omniglot_conv(20, filters=8, pool=True),
            (28, 28, 1),
            (20,),
            72 + 3 * 576 + 32 + 64 + 64 + 180,
        ),
        (
            lambda: models.omniglot_mlp(5),
            (28, 28, 1),
            (5,),
            784 * 256
            + 256 * 128
            + 128 * 64
            + 64 * 64
            + 5 * (256 + 128 + 64 + 64)
            + 64 * 5
            + 5,
        ),
        (
            lambda: models.mini_imagenet_conv(5),
            (84, 84, 3),
            (5,),
            864 + 3 * 9216 + 128 + 256 + 256 + 32 * 25 * 5 + 5,
        ),
    ],
)
def test_shapes_and_sizes(build, input_shape, output_shape, parameters):
    model = build()
    assert model.input_shape == (None, *input_shape)
    assert model.output_shape == (None, *output_shape)
    assert model.count_params() == parameters
    outputs = model(np.zeros((2, *input_shape), "float32"))
    assert outputs.shape == (2, *output_shape)


@pytest.mark.parametrize("pool", [False, True])
def test_blocks_halve_the_image_four_times(pool):
    model = models.omniglot_conv(5, filters=4, pool=pool)
    sizes = [
        layer.output.shape[1]
        for layer in model.layers
        if layer.name.startswith("max_pool" if pool else "re_lu")
    ]
    assert sizes == ([14, 7, 3, 1] if pool else [14, 7, 4, 2])


def test_initializers_are_those_requested():
    normal = keras.initializers.TruncatedNormal(stddev=0.01)
    for weight in models.sinusoid_mlp(initializer=normal).weights:
        assert np.abs(weight.numpy()).max() <= 0.02 + 1e-6
    for weight in models.omniglot_mlp(5).weights:
        if weight.name == "kernel":
            assert 0 < np.abs(weight.numpy()).max() <= 0.02 + 1e-6
    head = models.omniglot_conv(20, head_initializer="ones").weights[-2]
    np.testing.assert_array_equal(head.numpy(), np.ones([64, 20]))


def test_layers_start_differently():
    first, second = models.sinusoid_mlp((40, 1)).weights[2:5:2]
    assert first.shape != second.shape
    a, b = models.sinusoid_mlp((1, 1)).weights[0::2][:2]
    assert a.numpy() != b.numpy()


def test_hidden_sizes():
    model = models.sinusoid_mlp((3, 2, 4))
    assert [layer.units for layer in model.layers] == [3, 2, 4, 1]
    model = models.omniglot_mlp(5, hidden=(8,), image_size=4)
    assert model.count_params() == 16 * 8 + 8 + 4 * 8 + 8 * 5 + 5
