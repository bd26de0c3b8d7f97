import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from keras_meta.episodes import from_arrays
from keras_meta.episodes import load_arrays
from keras_meta.episodes.random_bits import random_words
from keras_meta.episodes.sampling import draw_distinct

from .episode_cases import arrays_of
from .episode_cases import numbered_classes
from .episode_cases import random_images

few = settings(max_examples=15, deadline=None)


@st.composite
def episode_settings(draw):
    shots = draw(st.integers(1, 3))
    queries = draw(st.integers(1, 4))
    least = shots + queries
    counts = draw(
        st.lists(st.integers(least, least + 6), min_size=2, max_size=7)
    )
    return {
        "counts": counts,
        "ways": draw(st.integers(1, len(counts))),
        "shots": shots,
        "queries": queries,
        "seed": draw(st.integers(-(2**40), 2**40)),
        "index": draw(st.integers(0, 2**40)),
        "shuffle": draw(st.booleans()),
    }


def sampler_of(case):
    return numbered_classes(case["counts"]).sampler(
        ways=case["ways"],
        shots=case["shots"],
        queries=case["queries"],
        seed=case["seed"],
        shuffle=case["shuffle"],
    )


@few
@given(episode_settings())
def test_an_episode_is_valid(case):
    x, y = sampler_of(case).draw(case["index"], tasks=3)
    ways, shots, queries = case["ways"], case["shots"], case["queries"]
    assert x["support_x"].shape == (3, ways * shots, 2)
    assert x["query_x"].shape == (3, ways * queries, 2)
    assert x["support_y"].dtype == y.dtype == tf.int32
    for task in range(3):
        support = x["support_x"][task].numpy()
        query = x["query_x"][task].numpy()
        support_y = x["support_y"][task].numpy()
        query_y = y[task].numpy()
        used = {tuple(item) for item in np.concatenate([support, query])}
        assert len(used) == ways * (shots + queries)
        for label in range(ways):
            of_support = support[support_y == label]
            of_query = query[query_y == label]
            assert len(of_support) == shots
            assert len(of_query) == queries
            owners = np.concatenate([of_support, of_query])[:, 0]
            assert len(set(owners)) == 1
            numbers = np.concatenate([of_support, of_query])[:, 1]
            assert numbers.max() < case["counts"][int(owners[0])]
        assert len(set(support[:, 0])) == ways


@few
@given(episode_settings(), st.integers(1, 4))
def test_an_episode_depends_only_on_seed_and_index(case, before):
    many = sampler_of(case).draw(case["index"], tasks=before + 1)
    again = sampler_of(case).draw(case["index"] + before, tasks=1)
    for batch, alone in zip(arrays_of(many), arrays_of(again), strict=True):
        np.testing.assert_array_equal(batch[before:], alone)


def test_global_seed_changes_nothing():
    sampler = numbered_classes([9] * 9).sampler(ways=3, shots=1, queries=2)
    tf.random.set_seed(1)
    np.random.seed(1)
    first = arrays_of(sampler.draw(0, 4))
    tf.random.set_seed(2)
    np.random.seed(2)
    for one, other in zip(first, arrays_of(sampler.draw(0, 4)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_episodes_and_seeds_differ():
    classes = numbered_classes([20] * 30)
    size = {"ways": 5, "shots": 1, "queries": 5}
    drawn = classes.sampler(seed=0, **size).draw(0, 50)[0]["query_x"].numpy()
    assert len({task.tobytes() for task in drawn}) == 50
    other = classes.sampler(seed=1, **size).draw(0, 50)[0]["query_x"].numpy()
    assert not (drawn == other).all(axis=(1, 2)).any()


def test_choose_returns_the_items_that_draw_takes():
    classes = numbered_classes([5, 7, 6])
    sampler = classes.sampler(ways=2, shots=2, queries=3, seed=4)
    x, _ = sampler.draw(8, tasks=2)
    drawn, items = sampler.choose(8, tasks=2)
    np.testing.assert_array_equal(
        x["support_x"][..., 0], np.repeat(drawn, 2, axis=1)
    )
    table = np.concatenate([classes.items_of(i) for i in range(3)])
    np.testing.assert_array_equal(
        x["query_x"], table[items[..., 2:].numpy().reshape(2, -1)]
    )


def chi_square(observed):
    expected = observed.sum() / observed.size
    return ((observed - expected) ** 2 / expected).sum()


def test_draws_are_uniform_at_every_position():
    rows, bound, draws = 20000, 10, 4
    words = random_words(seed=3, stream=0, index=0, rows=rows, words=2 * draws)
    drawn = draw_distinct(words[:, :draws], words[:, draws:], bound).numpy()
    for place in range(draws):
        counts = np.bincount(drawn[:, place], minlength=bound)
        # 9 degrees of freedom: 33.7 is exceeded once in 10,000.
        assert chi_square(counts) < 33.7
    pairs = np.bincount(drawn[:, 0] * bound + drawn[:, 1], minlength=100)
    off_diagonal = pairs.reshape(10, 10)[~np.eye(10, dtype=bool)]
    # 89 degrees of freedom: 145 is exceeded once in 10,000.
    assert chi_square(off_diagonal) < 145
    assert np.trace(pairs.reshape(10, 10)) == 0


def test_all_arrangements_are_equally_likely():
    words = random_words(seed=5, stream=0, index=0, rows=12000, words=6)
    drawn = draw_distinct(words[:, :3], words[:, 3:], 3).numpy()
    _, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(counts) == 6
    # 5 degrees of freedom: 25.7 is exceeded once in 10,000.
    assert chi_square(counts) < 25.7


def test_every_item_of_uneven_classes_is_reached_evenly():
    counts = [3, 8, 5]
    sampler = numbered_classes(counts).sampler(ways=3, shots=1, queries=2)
    x, _ = sampler.draw(0, tasks=4000)
    items = x["query_x"].numpy().reshape(-1, 2).astype(int)
    for label, count in enumerate(counts):
        numbers = items[items[:, 0] == label, 1]
        assert len(numbers) == 8000
        seen = np.bincount(numbers, minlength=count)
        # Drawing without replacement makes this smaller than chi-square.
        assert chi_square(seen) < 35


def test_labels_come_in_random_order():
    sampler = numbered_classes([3] * 4).sampler(ways=4, shots=1, queries=1)
    orders = sampler.draw(0, tasks=2000)[0]["support_x"][..., 0].numpy()
    assert len(np.unique(orders, axis=0)) == 24


def test_shuffle_mixes_items_and_keeps_their_labels():
    classes = numbered_classes([9] * 5)
    size = {"ways": 5, "shots": 3, "queries": 4, "seed": 2}
    grouped_x, grouped_y = classes.sampler(**size).draw(0, 2)
    mixed_x, mixed_y = classes.sampler(shuffle=True, **size).draw(0, 2)
    assert (np.diff(grouped_y.numpy()) >= 0).all()
    assert (np.diff(mixed_y.numpy()) < 0).any()
    for task in range(2):
        one = np.c_[grouped_x["query_x"][task], grouped_y[task]]
        other = np.c_[mixed_x["query_x"][task], mixed_y[task]]
        assert set(map(tuple, one)) == set(map(tuple, other))


def test_start_resumes():
    classes = numbered_classes([9] * 9)
    size = {"ways": 3, "shots": 2, "queries": 2, "tasks": 4, "seed": 7}
    whole = list(classes.episodes(num_batches=5, **size))
    rest = list(classes.episodes(start=8, num_batches=3, **size))
    assert len(whole) == 5
    for one, other in zip(whole[2:], rest, strict=True):
        for a, b in zip(arrays_of(one), arrays_of(other), strict=True):
            np.testing.assert_array_equal(a, b)


def test_iterator_checkpoint_resumes_and_is_small(tmp_path):
    images, labels = random_images(classes=6, each=8, size=20)
    episodes = from_arrays(
        images, labels, ways=5, shots=1, queries=5, tasks=8, dtype="uint8"
    )
    iterator = iter(episodes)
    for _ in range(3):
        next(iterator)
    path = tf.train.Checkpoint(iterator=iterator).write(str(tmp_path / "at3"))
    expected = [arrays_of(next(iterator)) for _ in range(3)]
    restored = iter(episodes)
    tf.train.Checkpoint(iterator=restored).read(path)
    for batch in expected:
        for a, b in zip(batch, arrays_of(next(restored)), strict=True):
            np.testing.assert_array_equal(a, b)
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 10_000


def test_batches_are_static_and_endless():
    episodes = numbered_classes([4] * 3).episodes(
        ways=2, shots=1, queries=3, tasks=5
    )
    spec_x, spec_y = episodes.element_spec
    assert spec_x["support_x"].shape == (5, 2, 2)
    assert spec_x["support_y"].shape == (5, 2)
    assert spec_x["query_x"].shape == (5, 6, 2)
    assert spec_y.shape == (5, 6)
    assert episodes.cardinality() == tf.data.INFINITE_CARDINALITY
    finite = numbered_classes([4] * 3).episodes(
        ways=2, shots=1, queries=3, tasks=5, num_batches=7
    )
    assert finite.cardinality() == 7


def test_images_are_bytes_or_between_zero_and_one():
    images, labels = random_images()
    size = {"ways": 3, "shots": 1, "queries": 2, "tasks": 2, "num_batches": 1}
    (raw, _), *_ = from_arrays(images, labels, dtype="uint8", **size)
    (scaled, _), *_ = from_arrays(images, labels, **size)
    assert raw["query_x"].dtype == tf.uint8
    assert scaled["query_x"].dtype == tf.float32
    np.testing.assert_allclose(
        scaled["query_x"], raw["query_x"].numpy() / 255, rtol=1e-6
    )


def test_draw_works_in_a_function():
    sampler = numbered_classes([4] * 3).sampler(ways=2, shots=1, queries=3)
    compiled = tf.function(lambda index: sampler.draw(index, 2))
    for a, b in zip(
        arrays_of(compiled(tf.constant(3))),
        arrays_of(sampler.draw(3, 2)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_a_strategy_distributes_the_dataset():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    episodes = numbered_classes([4] * 3).episodes(
        ways=2, shots=1, queries=3, tasks=4, num_batches=2
    )
    batches = list(strategy.experimental_distribute_dataset(episodes))
    for one, other in zip(batches, episodes, strict=True):
        np.testing.assert_array_equal(one[1], other[1])


@pytest.mark.parametrize("name", ["ways", "shots", "queries", "tasks"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_sizes_must_be_positive(name, value):
    size = {"ways": 2, "shots": 1, "queries": 1, "tasks": 2, name: value}
    with pytest.raises(ValueError, match=f"`{name}` must be a positive"):
        numbered_classes([4] * 3).episodes(**size)


@pytest.mark.slow_variants("options5-`augment` must return a dict.*None")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_batches": 0}, "`num_batches` must be a positive"),
        ({"seed": 2**63}, "`seed` must be a 64-bit integer"),
        ({"tasks": 2**31}, "`tasks` must be below 2\\*\\*31"),
        ({"shuffle": "False"}, "`shuffle` must be True or False.*'False'"),
        ({"augment": "flip"}, "`augment` must be a function.*'flip'"),
        ({"augment": lambda *_: None}, "`augment` must return a dict.*None"),
        ({"augment": lambda: 0}, "`augment` cannot be called"),
        ({"start": -1}, "`start` must be an integer of at least 0"),
        ({"dtype": "float16"}, "`dtype` must be one of 'float32'"),
        ({"rotate": "image"}, "`rotate` must be one of"),
        ({"rotate": "class"}, "Rotations need square images"),
        ({"ways": 4}, "`ways=4` needs at least 4 classes, but there are 3"),
        ({"shots": 3}, "Class 'class1' has 3 items"),
    ],
)
def test_impossible_episodes_are_refused(options, message):
    size = {"ways": 2, "shots": 1, "queries": 1, "tasks": 2} | options
    with pytest.raises(ValueError, match=message):
        numbered_classes([4, 3, 5]).episodes(**size)


def test_random_class_rotation_uses_every_turn():
    image = np.arange(9, dtype="uint8").reshape(1, 3, 3, 1)
    classes = load_arrays(np.repeat(image, 4, axis=0), [0, 0, 1, 1])
    sampler = classes.sampler(
        ways=2, shots=1, queries=1, dtype="uint8", rotate="class"
    )
    x, _ = sampler.draw(0, tasks=200)
    support = x["support_x"].numpy().reshape(400, 3, 3)
    # All items of a class in an episode share one turn.
    np.testing.assert_array_equal(
        support, x["query_x"].numpy().reshape(400, 3, 3)
    )
    turns = [np.rot90(image[0, ..., 0], k) for k in range(4)]
    seen = [(support == turn).all(axis=(1, 2)).sum() for turn in turns]
    assert sum(seen) == 400
    assert min(seen) > 70
