import numpy as np
import pytest

from keras_meta.episodes import ClassGroups
from keras_meta.episodes import load_arrays

SIZE = {"ways": 2, "shots": 1, "queries": 2}


def group(first, classes=3, items=4):
    """Items that tell their group and their class."""
    labels = np.repeat(np.arange(classes), items)
    values = 100 * first + 10 * labels + np.tile(np.arange(items), classes)
    names = [f"class{i}" for i in range(classes)]
    return load_arrays(values[:, None].astype("int32"), labels, names=names)


@pytest.fixture(scope="module")
def groups():
    return ClassGroups([group(1), group(2), group(3)], ["a", "b", "c"])


def _values(data, batches):
    return [
        np.concatenate([x["support_x"], x["query_x"]], axis=1)[..., 0]
        for x, _ in data.take(batches).as_numpy_iterator()
    ]


def _drawn(groups, batches, **options):
    options = {"tasks": 4, "dtype": "int32", **SIZE, **options}
    return np.concatenate(_values(groups.episodes(**options), batches))


def test_each_episode_is_drawn_inside_one_group_and_groups_take_turns(groups):
    values = _drawn(groups, 3)
    assert values.shape == (12, 6)
    for i, episode in enumerate(values):
        assert set(episode // 100) == {1 + i % 3}
        assert len(set(episode)) == 6


@pytest.mark.slow
@pytest.mark.parametrize("start", range(1, 6))
def test_a_later_start_continues_the_episodes(groups, start):
    whole = _drawn(groups, 3, seed=5)
    later = _drawn(groups, 1, seed=5, start=start)
    np.testing.assert_array_equal(later, whole[start : start + 4])


def test_groups_of_equal_classes_have_different_episodes():
    same = ClassGroups([group(1), group(1)])
    values = _drawn(same, 8)
    assert np.any(values[0::2] != values[1::2])


def test_small_classes_and_groups_are_left_out():
    large = ClassGroups([group(1), group(2, classes=1), group(3, items=2)])
    kept = large.having(items=3, ways=2)
    assert kept.names == ("0",)
    assert len(kept) == 3
    with pytest.raises(ValueError, match="No group has .*items=3, ways=4"):
        large.having(items=3, ways=4)


def test_pooling_joins_classes_of_one_name(groups):
    pooled = groups.pooled()
    assert pooled.names == ("class0", "class1", "class2")
    assert pooled.counts.tolist() == [12, 12, 12]
    values = pooled.items_of("class1")[:, 0]
    assert sorted(values) == sorted(
        100 * g + 10 + i for g in (1, 2, 3) for i in range(4)
    )


def test_bad_arguments_are_refused(groups):
    with pytest.raises(ValueError, match="`groups` must be .*at least one"):
        ClassGroups([])
    with pytest.raises(ValueError, match="2 names and 1 groups"):
        ClassGroups([group(1)], ["a", "b"])
    other = load_arrays(np.zeros([4, 2]), [0, 0, 1, 1])
    with pytest.raises(ValueError, match="one shape and type"):
        ClassGroups([group(1), other])
