import numpy as np
import pytest
import tensorflow as tf

from keras_meta.episodes import from_arrays
from keras_meta.episodes import load_arrays

from .episode_cases import random_images


def test_items_are_sorted_by_class():
    images, labels = random_images()
    classes = load_arrays(images, labels + 10)
    assert classes.ids == tuple(range(10, 16))
    for label in range(6):
        np.testing.assert_array_equal(
            classes.items_of(label + 10), images[labels == label]
        )


def test_labels_may_be_strings():
    classes = load_arrays(np.eye(3), ["b", "a", "b"])
    assert classes.names == ("a", "b")
    np.testing.assert_array_equal(classes.items_of("a"), [[0, 1, 0]])


def test_integer_labels_index_the_names():
    classes = load_arrays(np.eye(2), [2, 0], names=["cat", "dog", "hen"])
    assert classes.names == ("cat", "hen")
    assert classes.ids == (0, 2)


@pytest.mark.slow
def test_floats_are_kept():
    features = np.random.default_rng(0).normal(size=[40, 7]) * 100
    labels = np.repeat(np.arange(4), 10)
    episodes = from_arrays(
        features, labels, ways=4, shots=5, queries=5, tasks=1, num_batches=1
    )
    ((x, _),) = episodes
    drawn = np.concatenate([x["support_x"][0], x["query_x"][0]])
    assert {row.tobytes() for row in drawn} == {
        row.tobytes() for row in features.astype("float32")
    }


@pytest.mark.slow
def test_classes_and_rotations_are_passed_on():
    images, labels = random_images()
    episodes = from_arrays(
        images,
        labels,
        ways=8,
        shots=1,
        queries=1,
        tasks=1,
        classes=[0, 5],
        rotations=(90, 180, 270),
        seed=3,
    )
    assert episodes.element_spec[1].shape == (1, 8)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros([3, 2]), [0, 1], "3 items and `labels` has 2"),
        (np.zeros([3]), [0, 1, 1], r"`images` must be \[items, ...\]"),
        (np.zeros([2, 2]), np.eye(2), r"`labels` must be \[items\]"),
        (np.zeros([2, 2]), [0.5, 1], "`labels` must be integers or strings"),
        (np.zeros([0, 2]), [], "`images` must hold at least one item"),
        (np.array([["a"]]), [0], "`images` must be integers or floats"),
        (
            [[1.0, 2.0], [np.nan, 3.0]],
            [0, 1],
            r"`images` must be finite. Received: nan at index \[1, 0\]",
        ),
    ],
)
def test_bad_arrays_are_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        load_arrays(images, labels)


@pytest.mark.parametrize("name", ["images", "labels"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "must be"),
        ("text", "must be"),
        ([[1.0], [2.0, 3.0]], "nested lists of equal lengths"),
        (np.array([None, "a"], object), "which holds other objects"),
        (tf.ragged.constant([[1.0], [2.0, 3.0]]), "RaggedTensor.*to_tensor"),
        (tf.sparse.from_dense([[1.0, 0.0]]), "SparseTensor.*to_dense"),
    ],
)
def test_refuses_values_that_are_not_arrays(name, value, message):
    arguments = {"images": np.zeros([2, 2]), "labels": [0, 1], name: value}
    with pytest.raises(ValueError, match=f"`{name}`.*{message}"):
        load_arrays(**arguments)


def test_numbers_beyond_float32_are_refused():
    with pytest.raises(ValueError, match="`images` .* float32.*1e[+]300"):
        load_arrays(np.full([2, 2], 1e300), [0, 1])


def test_bad_names_are_refused():
    with pytest.raises(ValueError, match="`names` has 1 entries"):
        load_arrays(np.eye(2), [0, 1], names=["a"])
    with pytest.raises(ValueError, match="needs integer `labels`"):
        load_arrays(np.eye(2), ["a", "b"], names=["a", "b"])
