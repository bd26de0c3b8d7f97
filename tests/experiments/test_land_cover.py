"""Tasks inside regions of the world."""

import os
import pathlib
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import few_shot_data
from experiments import land_cover_data
from experiments.few_shot_learners import defaults
from experiments.few_shot_settings import Case
from tests import data_sets

pytestmark = pytest.mark.slow
FOLDER = os.environ.get("TFDS_DATA_DIR")
LISTS = pathlib.Path(FOLDER or "nowhere").parent / "splits" / "eurosat_spatial"
PARTS = ("train", "validation", "test")


def _pixels(classes):
    """Returns the tiles of classes as a set."""
    return {
        tile.tobytes()
        for label in classes.ids
        for tile in classes.items_of(label)
    }


@pytest.mark.skipif(not LISTS.is_dir(), reason=f"{LISTS} is missing")
@data_sets.needs("eurosat")
def test_bands_of_eurosat_share_classes_and_no_tile():
    bands = {
        part: land_cover_data.eurosat_band(part, 32, FOLDER) for part in PARTS
    }
    counts = {part: int(band.counts.sum()) for part, band in bands.items()}
    assert counts == {"train": 6131, "validation": 2012, "test": 1857}
    assert len({band.names for band in bands.values()}) == 1
    tiles = [_pixels(band) for band in bands.values()]
    assert not tiles[0] & tiles[2]
    assert not tiles[1] & tiles[2]


@data_sets.needs("sen12ms_regions")
def test_scenes_of_sen12ms_are_inside_regions_of_one_part():
    scenes = {
        part: land_cover_data.sen12ms_scenes(part, 32, FOLDER) for part in PARTS
    }
    names = [name for groups in scenes.values() for name in groups.names]
    assert len(names) == len(set(names)) == 22
    regions = {
        part: {name.split()[0] for name in groups.names}
        for part, groups in scenes.items()
    }
    assert regions["validation"] == {"134", "141"}
    assert regions["test"] == {"108", "122", "135"}
    assert len(regions["train"]) == 8
    totals = [
        sum(int(g.counts.sum()) for g in groups.groups)
        for groups in scenes.values()
    ]
    assert totals == [5060, 1043, 1750]


@data_sets.needs("sen12ms_regions")
def test_tasks_are_drawn_inside_one_scene():
    scenes = land_cover_data.sen12ms_scenes("test", 32, FOLDER)
    tasks = scenes.having(items=6, ways=4)
    x, y = next(iter(tasks.episodes(ways=4, shots=1, queries=5, tasks=4)))
    assert x["support_x"].shape == (4, 4, 32, 32, 3)
    assert y.shape == (4, 20)
    for i, images in enumerate(x["query_x"].numpy()):
        group = tasks.groups[i % len(tasks.groups)]
        tiles = np.round(images * 255).astype("uint8")
        assert {tile.tobytes() for tile in tiles} <= _pixels(group)


def test_an_instance_is_normalized_alone():
    values = defaults(Case("eurosat_spatial", 5, 1), "maml")
    assert values["network"] == "pool"
    row = few_shot_data.DATA_SETS["eurosat_spatial"]
    settings = SimpleNamespace(network="instance", filters=4, image_size=32)
    network = row.network(5, settings)
    images = np.random.default_rng(0).random([3, 32, 32, 3]).astype("float32")
    together = network(images, training=True)
    np.testing.assert_allclose(
        together[1:2], network(images[1:2], training=True), rtol=1e-4
    )
