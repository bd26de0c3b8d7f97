import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_meta import addons
from keras_meta.episodes import Augment
from keras_meta.episodes import load_arrays

from .episode_cases import arrays_of
from .episode_cases import random_images

if not addons.is_available():
    pytest.skip("TensorFlow Addons is not installed", allow_module_level=True)

CHANGES = {
    "rotate": 30,
    "translate": 0.3,
    "elastic": 0.9,
    "cutout": 0.5,
    "hue": 0.5,
    "saturation": 0.9,
}
EVERYTHING = Augment(on="both", **CHANGES)


def sampler_of(augment, **options):
    classes = load_arrays(*random_images(size=12, channels=3))
    return classes.sampler(
        ways=3, shots=1, queries=2, augment=augment, **options
    )


@pytest.mark.slow_variants(
    "both-elastic",
    "query-elastic",
    "support-elastic",
    "support-translate",
)
@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("on", ["support", "query", "both"])
def test_each_change_affects_only_the_requested_images(name, on):
    plain, plain_y = sampler_of(None).draw(4, 2)
    augment = Augment(on=on, **{name: CHANGES[name]})
    changed, changed_y = sampler_of(augment).draw(4, 2)
    np.testing.assert_array_equal(plain_y, changed_y)
    for key, touched in (
        ("support", on != "query"),
        ("query", on != "support"),
    ):
        before = plain[f"{key}_x"].numpy()
        after = changed[f"{key}_x"].numpy()
        assert before.shape == after.shape
        same = np.isclose(before, after, atol=1e-6).all(axis=(2, 3, 4))
        assert same.all() or touched
        assert not (same.all() and touched)
        assert after.min() >= 0 and after.max() <= 1


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**40), st.integers(1, 3))
def test_an_augmented_episode_depends_only_on_seed_and_index(index, before):
    sampler = sampler_of(EVERYTHING)
    many = arrays_of(sampler.draw(index, before + 1))
    alone = arrays_of(sampler.draw(index + before, 1))
    for batch, one in zip(many, alone, strict=True):
        np.testing.assert_allclose(batch[before:], one, atol=1e-4)


@pytest.mark.slow
def test_bytes_stay_bytes():
    raw, _ = sampler_of(EVERYTHING, dtype="uint8").draw(0)
    scaled, _ = sampler_of(EVERYTHING).draw(0)
    assert raw["query_x"].dtype == tf.uint8
    np.testing.assert_allclose(
        raw["query_x"].numpy() / 255, scaled["query_x"], atol=1 / 255
    )


@pytest.mark.slow
def test_augmentation_runs_in_a_dataset():
    sampler = sampler_of(EVERYTHING, seed=3)
    ((x, _),) = sampler.dataset(tasks=2, start=6, num_batches=1)
    expected, _ = sampler.draw(6, 2)
    np.testing.assert_allclose(x["query_x"], expected["query_x"], atol=1e-4)


def test_the_defaults_change_nothing():
    x, _ = sampler_of(None).draw(0)
    same = Augment(on="both")(0, 0, x)
    np.testing.assert_allclose(same["support_x"], x["support_x"], atol=1e-6)


def test_cutout_blanks_a_square():
    ones = {"support_x": tf.ones([50, 2, 8, 8, 1])}
    cut = Augment(cutout=0.5)(0, 0, ones)["support_x"].numpy()
    blank = (cut == 0).sum(axis=(2, 3, 4))
    assert blank.max() == 16
    assert blank.min() >= 4


def test_rotation_stays_within_its_bound():
    bar = np.zeros([200, 1, 21, 21, 1], "float32")
    bar[:, :, 10, 11:] = 1
    turned = Augment(rotate=20)(0, 0, {"support_x": tf.constant(bar)})
    rows, columns = np.mgrid[:21, :21] - 10
    weight = turned["support_x"].numpy()[:, 0, ..., 0]
    angles = np.degrees(
        np.arctan2((weight * rows).sum((1, 2)), (weight * columns).sum((1, 2)))
    )
    assert np.abs(angles).max() < 20.5
    assert angles.min() < -17 and angles.max() > 17


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"rotate": 181},
            "`rotate` must be a number from 0 to 180. Received: rotate=181",
        ),
        ({"translate": -0.1}, "`translate` must be"),
        ({"elastic": 2}, "`elastic` must be"),
        ({"elastic_smoothness": 0}, "`elastic_smoothness` must be"),
        ({"cutout": 1.5}, "`cutout` must be"),
        ({"hue": 4}, "`hue` must be"),
        ({"saturation": 2}, "`saturation` must be"),
        ({"fill": "white"}, "`fill` must be one of"),
        ({"on": "all"}, "`on` must be one of"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Augment(**options)


def test_items_that_are_not_images_are_refused():
    with pytest.raises(ValueError, match="must be a tensor of images"):
        Augment(rotate=1)(0, 0, {"support_x": tf.zeros([1, 2, 3])})
    with pytest.raises(ValueError, match="need images with 3 channels"):
        Augment(hue=1)(0, 0, {"support_x": tf.zeros([1, 2, 8, 8, 1])})
