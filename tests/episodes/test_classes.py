import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_meta.episodes import Classes
from keras_meta.episodes import load_arrays

from .episode_cases import numbered_classes
from .episode_cases import random_images


@settings(max_examples=30, deadline=None)
@given(st.integers(5, 200), st.integers(0, 2**31))
def test_split_is_disjoint_complete_and_seeded(size, seed):
    classes = numbered_classes([1] * size)
    parts = classes.split(0.5, 0.25, 0.25, seed=seed)
    ids = [label for part in parts.values() for label in part.ids]
    assert sorted(ids) == list(range(size))
    again = classes.split(0.5, 0.25, 0.25, seed=seed)
    assert {k: p.ids for k, p in parts.items()} == {
        k: p.ids for k, p in again.items()
    }


def test_split_ignores_global_state_and_obeys_the_seed():
    classes = numbered_classes([1] * 100)
    np.random.seed(0)
    first = classes.split()["test"].ids
    np.random.seed(1)
    assert classes.split()["test"].ids == first
    assert classes.split(seed=1)["test"].ids != first
    sizes = [len(part) for part in classes.split().values()]
    assert sizes == [64, 16, 20]


def test_split_without_a_part():
    parts = numbered_classes([1] * 10).split(0.8, 0.0, 0.2)
    assert list(parts) == ["train", "test"]


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((0.5, 0.5, 0.5), "add up to 1"),
        ((1.2, -0.4, 0.2), "`validation` must be .* at least 0"),
        ((0.98, 0.01, 0.01), "`validation=0.01` of 5 classes"),
    ],
)
def test_bad_fractions_are_refused(shares, message):
    with pytest.raises(ValueError, match=message):
        numbered_classes([1] * 5).split(*shares)


def test_select_by_id_and_name():
    classes = numbered_classes([2, 3, 4])
    assert classes.select([2, 0]).names == ("class2", "class0")
    assert classes.select(["class1"]).ids == (1,)
    chosen = classes.select([2, 0])
    np.testing.assert_array_equal(chosen.items_of(2)[:, 0], [2] * 4)
    x, _ = chosen.sampler(ways=2, shots=1, queries=1).draw(0, 20)
    assert set(x["query_x"].numpy()[..., 0].ravel()) == {0.0, 2.0}


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["dog"], "`classes` has 'dog', which is not one of the 3 classes"),
        ([7], "`classes` has 7"),
        ([1, 1], "names 'class1' twice"),
        ([], "`classes` must name at least one class"),
    ],
)
def test_bad_selections_are_refused(chosen, message):
    with pytest.raises(ValueError, match=message):
        numbered_classes([2, 3, 4]).select(chosen)


def test_split_by_lists():
    parts = numbered_classes([1] * 4).split_by({"train": [0, 3], "test": [1]})
    assert parts["train"].ids == (0, 3)
    with pytest.raises(ValueError, match="'class3' in 'train' and in 'test'"):
        numbered_classes([1] * 4).split_by({"train": [0, 3], "test": [3]})


def test_rotations_are_new_classes():
    images, labels = random_images(classes=3, each=2)
    classes = load_arrays(images, labels)
    rotated = classes.rotations(90, 180, 270)
    assert len(rotated) == 12
    assert len(set(rotated.ids)) == len(set(rotated.names)) == 12
    assert rotated.ids[:3] == classes.ids
    assert rotated.names[4] == "1/rotated90"
    for turns, name in enumerate(("1/rotated90", "1/rotated180"), start=1):
        for upright, turned in zip(
            classes.items_of("1"), rotated.items_of(name), strict=True
        ):
            np.testing.assert_array_equal(np.rot90(upright, turns), turned)
    sampler = rotated.sampler(ways=12, shots=1, queries=1, dtype="uint8")
    drawn, _ = sampler.choose(0)
    x, _ = sampler.draw(0)
    for position, image in zip(drawn[0], x["query_x"][0], strict=True):
        possible = rotated.items_of(rotated.ids[position])
        assert (possible == image.numpy()).all(axis=(1, 2, 3)).any()


@pytest.mark.parametrize(
    ("degrees", "message"),
    [
        ((45,), "integer multiples of 90. Received: 45"),
        ((90, 450), "different angles"),
        ((360,), "different angles"),
    ],
)
def test_bad_angles_are_refused(degrees, message):
    classes = load_arrays(*random_images())
    with pytest.raises(ValueError, match=message):
        classes.rotations(*degrees)


def test_rotating_and_splitting_in_the_wrong_order_is_refused():
    rotated = load_arrays(*random_images()).rotations(90)
    with pytest.raises(ValueError, match="Call `split` before `rotations`"):
        rotated.split()
    with pytest.raises(ValueError, match="already been rotated"):
        rotated.rotations(90)
    with pytest.raises(ValueError, match="need square images"):
        numbered_classes([2, 2]).rotations(90)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"counts": [-1, 5]}, r"`counts\[0\]` must be a positive.*=-1"),
        ({"counts": [4, 0]}, r"`counts\[1\]` must be a positive.*=0"),
        ({"counts": [1.5, 2.5]}, "`counts` must be a list of integers.*1.5"),
        ({"counts": None}, "`counts` must be"),
        ({"ids": [0, 1.9]}, "`ids` must be a list of integers.*1.9"),
        ({"ids": "01"}, "`ids` must be a list of integers"),
        ({"names": None}, "`names` must be"),
        ({"names": ["a", None]}, "`names` must be a list of strings.*None"),
        ({"items": None}, "`items` must be an array"),
        ({"items": np.zeros([4])}, r"`items` must be \[items, ...\]"),
        ({"items": np.full([4, 2], np.inf)}, "`items` must be finite.*inf"),
    ],
)
def test_arguments_of_the_wrong_type_are_refused(arguments, message):
    valid = {"items": np.zeros([4, 2]), "counts": [2, 2], "names": "ab"}
    with pytest.raises(ValueError, match=message):
        Classes(**(valid | arguments))


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, None])
def test_split_refuses_bad_seeds(seed):
    with pytest.raises(ValueError, match="`seed` must be an integer from 0"):
        numbered_classes([1] * 10).split(seed=seed)


def test_split_refuses_nan_fractions():
    with pytest.raises(ValueError, match="`train` must be a finite.*nan"):
        numbered_classes([1] * 10).split(train=float("nan"))


@pytest.mark.parametrize("chosen", ["class1", 1, None, [1.5], [True], [[1]]])
def test_selections_of_the_wrong_type_are_refused(chosen):
    with pytest.raises(ValueError, match="`classes` must"):
        numbered_classes([1] * 10).select(chosen)


def test_arguments_must_fit_together():
    with pytest.raises(ValueError, match="one entry for each class"):
        Classes(np.zeros([2, 2]), [1, 1], ["a"])
    with pytest.raises(ValueError, match="add up to the number of items, 2"):
        Classes(np.zeros([2, 2]), [1, 2], ["a", "b"])


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=8, unique=True))
def test_rotated_classes_have_ids_of_their_own(labels):
    images = np.zeros([len(labels), 4, 4, 1], "uint8")
    rotated = load_arrays(images, labels).rotations(90, 180)
    assert len(set(rotated.ids)) == 3 * len(labels)
    assert rotated.ids[: len(labels)] == tuple(sorted(labels))


def test_duplicate_class_names_are_refused():
    images = np.zeros([2, 4, 4, 1], "uint8")
    with pytest.raises(ValueError, match="`names` must be different.*'a' 2"):
        load_arrays(images, [0, 1], names=["a", "a"])
