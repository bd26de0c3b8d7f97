import os

import numpy as np
import pytest

from keras_meta.episodes import class_split
from keras_meta.episodes import from_tfds
from keras_meta.episodes import omniglot
from tests import data_sets

SIZES = {
    "random1200": (1100, 100, 423),
    "vinyals": (1028, 172, 423),
    "mini_imagenet": (64, 16, 20),
    "cifar_fs": (64, 16, 20),
}

needs_data = data_sets.needs("omniglot", "cifar100")


@pytest.mark.parametrize("name", SIZES)
def test_published_splits_are_disjoint(name):
    parts = [
        class_split(f"{name}/{part}")
        for part in ("train", "validation", "test")
    ]
    assert tuple(map(len, parts)) == SIZES[name]
    everything = class_split(f"{name}/train+validation+test")
    assert len(set(everything)) == sum(SIZES[name])
    if isinstance(everything[0], int):
        assert set(everything) == set(range(1623))


def test_the_random_split_is_always_the_same():
    np.random.seed(0)
    assert class_split("random1200/test")[:4] == [15, 20, 21, 24]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "imagenet/train",
            "must be a published split of classes.*The splits are random",
        ),
        ("vinyals", "must name a part of a split. Received: name='vinyals'"),
        ("vinyals/dev", "The parts are train, validation, test"),
    ],
)
def test_unknown_splits_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        class_split(name)


def test_unknown_omniglot_protocol_is_refused():
    with pytest.raises(ValueError, match="`protocol` must be one of"):
        omniglot("train", protocol="lake")
    with pytest.raises(ValueError, match="`split` must be 'train'.*='dev'"):
        omniglot("dev")


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("protocol", ["random1200", "vinyals"])
def test_omniglot_matches_the_papers(protocol, cache_dir):
    where = {"data_dir": os.environ["TFDS_DATA_DIR"], "cache_dir": cache_dir}
    train, validation, test = SIZES[protocol]
    for split, classes in (
        ("train", 4 * train),
        ("validation", validation),
        ("test", test),
        ("train+validation", 4 * (train + validation)),
    ):
        loaded = omniglot(split, protocol=protocol, **where)
        assert len(loaded) == classes
        assert (loaded.counts == 20).all()
        assert loaded.item_shape == (28, 28, 1)
    plain = omniglot("train", protocol=protocol, rotations=(), **where)
    assert len(plain) == train
    episodes = plain.episodes(
        ways=20, shots=1, queries=5, tasks=8, rotate="class", num_batches=1
    )
    ((x, _),) = episodes
    images = x["query_x"].numpy()
    assert images.min() == 0 and images.max() == 1
    # Thin bright strokes on dark paper, up to the margin.
    assert 0.02 < images.mean() < 0.2
    margin = np.concatenate([images[..., 0, :, 0], images[..., -1, :, 0]])
    assert margin.mean() < 0.05


@pytest.mark.slow
@needs_data
def test_cifar_fs_by_name(cache_dir):
    episodes = from_tfds(
        "cifar100",
        "train+test",
        classes="cifar_fs/test",
        ways=20,
        shots=1,
        queries=2,
        tasks=1,
        data_dir=os.environ["TFDS_DATA_DIR"],
        cache_dir=cache_dir,
    )
    assert episodes.element_spec[0]["query_x"].shape == (1, 40, 32, 32, 3)
