"""Land cover: tasks inside one region, tested in regions never seen.

EuroSAT's tiles are divided by longitude into three bands, by the lists that
TorchGeo publishes for its `EuroSATSpatial`. Put them as `train.csv`,
`val.csv` and `test.csv`, with a column `filename`, into
`splits/eurosat_spatial` beside the folder of the prepared data sets.

Of SEN12MS, the 13 regions of `sen12ms_regions` are divided into 8, 2 and 3. A
region number seems not to be one place, so tasks stay inside one season of a
region. The data set is non-commercial (CC BY-NC-SA 4.0).
"""

from __future__ import annotations

import csv
import functools
import pathlib
import sys
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_meta import episodes

_FILES = {"train": "train.csv", "validation": "val.csv", "test": "test.csv"}
# Numbers of SEN12MS's regions. The others train.
_REGIONS = {"validation": ("134", "141"), "test": ("108", "122", "135")}
_AT_ONCE = 512


def eurosat_band(
    part: str, image_size: int, data_dir: str | None
) -> episodes.Classes:
    """Returns the ten classes of EuroSAT in one band of longitude.

    Args:
        part: `"train"`, `"validation"` or `"test"`.
        image_size: Side to which tiles of 64 pixels are scaled.
        data_dir: Folder of the prepared data sets.
    """
    features = ("label", "filename")
    tiles, names = _tiles("eurosat", features, image_size, data_dir)
    chosen = np.isin(tiles["filename"], _files_of(part, data_dir))
    return _classes(tiles, chosen, names)


def sen12ms_scenes(
    part: str, image_size: int, data_dir: str | None
) -> episodes.ClassGroups:
    """Returns the scenes of SEN12MS in the regions of one part.

    A scene is a season of a region.

    Args:
        part: `"train"`, `"validation"` or `"test"`.
        image_size: Side to which tiles of 64 pixels are scaled.
        data_dir: Folder of the prepared data sets.
    """
    features = ("label", "region", "season")
    tiles, names = _tiles("sen12ms_regions", features, image_size, data_dir)
    held_out = [x for regions in _REGIONS.values() for x in regions]
    is_held_out = np.isin(tiles["region"], held_out)
    is_inside = ~is_held_out
    if part != "train":
        is_inside = np.isin(tiles["region"], _REGIONS[part])
    scenes = np.char.add(np.char.add(tiles["region"], " "), tiles["season"])
    found = sorted(set(scenes[is_inside]))
    groups = [_classes(tiles, scenes == scene, names) for scene in found]
    return episodes.ClassGroups(groups, found)


def _classes(
    tiles: dict[str, np.ndarray], chosen: np.ndarray, names: list[str]
) -> episodes.Classes:
    labels = np.array(names)[tiles["label"][chosen].astype(int)]
    return episodes.load_arrays(tiles["image"][chosen], labels)


@functools.cache
def _tiles(
    name: str, features: tuple[str, ...], image_size: int, data_dir: str | None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Returns images and features of all tiles, and the classes' names."""
    data, info = tfds.load(
        name, split="train", data_dir=data_dir, with_info=True
    )
    parts: dict[str, list[np.ndarray]] = {"image": []}
    for batch in data.batch(_AT_ONCE):
        size = [image_size, image_size]
        images = tf.image.resize(batch["image"], size, "area")
        parts["image"].append(tf.cast(tf.round(images), tf.uint8).numpy())
        for feature in features:
            values = _plain(feature, batch[feature].numpy(), info)
            parts.setdefault(feature, []).append(values)
    tiles = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    return tiles, list(info.features["label"].names)


def _plain(feature: str, values: np.ndarray, info: Any) -> np.ndarray:
    """Returns a feature as strings, except the label."""
    if feature == "label":
        return values
    kind = info.features[feature]
    if isinstance(kind, tfds.features.ClassLabel):
        return np.array(kind.names)[values]
    return np.array([value.decode() for value in values])


def _files_of(part: str, data_dir: str | None) -> list[str]:
    """Returns the names of the files of a band of EuroSAT."""
    folder = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR)
    path = folder.parent / "splits" / "eurosat_spatial" / _FILES[part]
    if not path.exists():
        sys.exit(
            f"The list of EuroSAT's tiles by longitude is missing: {path}. It "
            "is a table with a column `filename`. TorchGeo publishes these "
            "lists as eurosat-spatial-train.txt, -val.txt and -test.txt."
        )
    with path.open(newline="") as file:
        return [row["filename"] for row in csv.DictReader(file)]
