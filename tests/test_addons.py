import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta import addons

needs_addons = pytest.mark.skipif(
    not addons.is_available(), reason="TensorFlow Addons is not installed"
)


@pytest.fixture
def absent(monkeypatch):
    """Simulates a Python where TensorFlow Addons cannot be installed."""
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)


@pytest.mark.parametrize("part", ["image", "losses", "activations"])
def test_absence_is_explained(absent, part):
    assert not addons.is_available()
    with pytest.raises(ImportError, match=r"Python 3.11.*`addons` extra"):
        getattr(addons, part)


@pytest.mark.parametrize(
    "part",
    ["callbacks", "layers", "metrics", "optimizers", "rnn", "seq2seq", "text"],
)
def test_parts_that_cannot_work_are_refused(part):
    with pytest.raises(
        AttributeError, match=f"{part}` does not work with Keras 3. Use"
    ):
        getattr(addons, part)


def test_unknown_parts_are_refused():
    with pytest.raises(AttributeError, match="no `images`. It has"):
        _ = addons.images
    assert {"image", "losses", "activations"} <= set(dir(addons))


@needs_addons
@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("image", "resampler"),
        ("image", "connected_components"),
        ("image", "euclidean_dist_transform"),
        ("losses", "GIoULoss"),
        ("losses", "NpairsLoss"),
        ("activations", "rrelu"),
    ],
)
def test_names_that_cannot_work_are_refused(part, name):
    with pytest.raises(
        AttributeError, match=f"{name}` is not available with Keras 3"
    ):
        getattr(getattr(addons, part), name)
    assert name not in dir(getattr(addons, part))


@needs_addons
def test_unknown_names_are_refused():
    with pytest.raises(AttributeError, match="image` has no `spin`. It has"):
        _ = addons.image.spin


IMAGES = tf.random.stateless_uniform([2, 8, 8, 3], seed=[0, 0])
FLOW = tf.zeros([2, 8, 8, 2])
BYTES = tf.cast(IMAGES * 255, tf.uint8)


@pytest.mark.slow_variants(
    "dense_image_warp-arguments2",
    "equalize-arguments3",
    "gaussian_filter2d-arguments4",
    "translate-arguments11",
)
@needs_addons
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("adjust_hsv_in_yiq", (IMAGES, 0.1, 1.1, 1.0)),
        ("cutout", (IMAGES, 2)),
        ("dense_image_warp", (IMAGES, FLOW)),
        ("equalize", (BYTES,)),
        ("gaussian_filter2d", (IMAGES,)),
        ("mean_filter2d", (IMAGES,)),
        ("median_filter2d", (IMAGES,)),
        ("random_cutout", (IMAGES, 2)),
        ("random_hsv_in_yiq", (IMAGES, 0.1)),
        ("rotate", (IMAGES, 0.1)),
        ("sharpness", (IMAGES, 0.5)),
        ("translate", (IMAGES, [1.0, 2.0])),
    ],
)
def test_image_functions_run(name, arguments):
    result = getattr(addons.image, name)(*arguments)
    assert result.shape == IMAGES.shape


@needs_addons
def test_a_rotation_by_a_right_angle_is_exact():
    turned = addons.image.rotate(IMAGES, np.pi / 2)
    np.testing.assert_allclose(turned, tf.image.rot90(IMAGES), atol=1e-5)


@needs_addons
def test_contrastive_loss_matches_its_formula():
    loss = addons.losses.contrastive_loss(
        tf.constant([1.0, 0.0, 0.0]), tf.constant([0.5, 0.25, 2.0])
    )
    np.testing.assert_allclose(loss, [0.25, 0.5625, 0.0])


@pytest.mark.slow
@needs_addons
@pytest.mark.parametrize(
    "name",
    ["TripletSemiHardLoss", "TripletHardLoss", "LiftedStructLoss"],
)
def test_losses_train_and_save(name, tmp_path):
    model = keras.Sequential([keras.layers.Dense(3)])
    model.compile(
        optimizer="sgd", loss=getattr(addons.losses, name)(), jit_compile=False
    )
    inputs = np.random.default_rng(0).normal(size=[8, 4])
    history = model.fit(inputs, np.arange(8) % 2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    assert type(restored.loss).__name__ == name


@needs_addons
def test_activations_run():
    for name in dir(addons.activations):
        result = getattr(addons.activations, name)(tf.constant([[-1.0, 2.0]]))
        assert result.shape == (1, 2)


@pytest.mark.slow
@needs_addons
def test_import_leaves_nothing_behind():
    """Leaves no stand-ins, no partial package and no compiled operations."""
    script = (
        "import sys, warnings\n"
        "warnings.simplefilter('error')\n"
        "from keras_meta import addons\n"
        "assert 'tensorflow_addons' not in sys.modules\n"
        "import tensorflow as tf\n"
        "addons.image.adjust_hsv_in_yiq(tf.zeros([1, 4, 4, 3]), 0.1)\n"
        "left = [m for m in sys.modules if 'tensorflow_addons' in m\n"
        "        or m.startswith('keras.src.engine')]\n"
        "assert not left, left\n"
        "maps = open('/proc/self/maps').read() if sys.platform == 'linux'"
        " else ''\n"
        "assert 'tensorflow_addons' not in maps\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
