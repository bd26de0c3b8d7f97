"""The data sets of few-shot classification, and networks for their images.

A data set is a row of `DATA_SETS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from experiments import land_cover_data
from experiments.few_shot_settings import Settings
from keras_meta import episodes
from keras_meta.models import mini_imagenet_conv
from keras_meta.models import omniglot_conv
from keras_meta.models import omniglot_mlp

# Keep the parts apart, for any reasonable seed.
_SEED_OFFSETS = {"train": 0, "validation": 2**32, "test": 2**33}
# Tiles of land cover have 64 pixels. On a CPU, networks need fewer.
_TILE_SIZE = 32


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set whose classes are divided into three parts.

    Attributes:
        label: Name in tables.
        load: Function of the settings, the part and the folder of the prepared
            data sets.
        network: Function of the number of classes and the settings.
        networks: Which networks there are; the first is the default.
        image_size: Side of the images, or `None` if the networks are for one
            size alone. `--image_size` changes it.
        ways: Default number of classes in a task.
        train_ways: The same in training, for learners without a head.
        defaults: Settings that differ from those of other data sets.
    """

    label: str
    load: Callable[
        [Settings, str, str | None], episodes.Classes | episodes.ClassGroups
    ]
    network: Callable[[int, Settings], keras.Model]
    networks: tuple[str, ...] = ("pool",)
    image_size: int | None = None
    ways: int = 5
    train_ways: int = 20
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def networks() -> list[str]:
    """Returns the names of all networks."""
    named = (name for row in DATA_SETS.values() for name in row.networks)
    return list(dict.fromkeys(named))


def load_classes(
    settings: Settings, part: str, data_dir: str | None
) -> episodes.Classes | episodes.ClassGroups:
    """Returns the classes of one part of a data set, in regions or not.

    Args:
        settings: The settings.
        part: `"train"`, `"validation"` or `"test"`.
        data_dir: Folder of the prepared data sets.
    """
    return DATA_SETS[settings.data_set].load(settings, part, data_dir)


def draw_episodes(
    classes: episodes.Classes | episodes.ClassGroups,
    settings: Settings,
    part: str,
    *,
    ways: int,
    shots: int,
    tasks: int,
    start: int = 0,
) -> tf.data.Dataset:
    """Returns episodes of the classes of one part.

    Args:
        classes: The classes.
        settings: The settings.
        part: The part, see `load_classes`.
        ways: Number of classes in an episode.
        shots: Number of support images of each class.
        tasks: Number of episodes in a batch.
        start: Index of the first episode.
    """
    queries = settings.queries
    if part == "train" and settings.train_queries is not None:
        queries = settings.train_queries
    if isinstance(classes, episodes.ClassGroups):
        classes = classes.having(items=shots + queries, ways=ways)
    else:
        queries = min(queries, int(classes.counts.min()) - shots)
    return classes.episodes(
        ways=ways,
        shots=shots,
        queries=queries,
        tasks=tasks,
        seed=settings.seed + _SEED_OFFSETS[part],
        start=start,
        rotate="class" if settings.rotations == "episodes" else None,
    )


def draw_images(
    classes: episodes.Classes | episodes.ClassGroups,
    settings: Settings,
    start: int = 0,
) -> tf.data.Dataset:
    """Returns batches of images, and the numbers of their classes.

    Args:
        classes: The classes. Those of one name are one class in all regions.
        settings: The settings.
        start: Number of images to skip.

    Returns:
        Images `[meta_batch, height, width, channels]` and labels
        `[meta_batch]`.
    """
    if isinstance(classes, episodes.ClassGroups):
        classes = classes.pooled()
    return classes.examples(
        settings.meta_batch, seed=settings.seed, start=start
    )


def scaled(images: tf.Tensor) -> tf.Tensor:
    """Returns uint8 images as networks see them in episodes."""
    return tf.cast(images, tf.float32) * (1 / 255)


def make_network(settings: Settings) -> keras.Model:
    """Returns the network with a head for the classes of a training task."""
    data_set = DATA_SETS[settings.data_set]
    return data_set.network(settings.train_ways, settings)


def encoder_of(network: keras.Model) -> keras.Model:
    """Returns a network without its head."""
    *body, _ = network.layers
    return keras.Sequential([keras.Input(network.input_shape[1:]), *body])


def _omniglot(
    settings: Settings, part: str, data_dir: str | None
) -> episodes.Classes:
    turned = settings.rotations == "classes"
    return episodes.omniglot(
        part,
        protocol=settings.protocol,
        rotations=None if turned else (),
        data_dir=data_dir,
    )


def _mini_imagenet(
    settings: Settings, part: str, data_dir: str | None
) -> episodes.Classes:
    return _load("mini_imagenet", part, settings, data_dir)


def _cifar_fs(
    settings: Settings, part: str, data_dir: str | None
) -> episodes.Classes:
    images = _load(
        "cifar100", "train+test", settings, data_dir, label_key="label"
    )
    return images.select(episodes.class_split(f"cifar_fs/{part}"))


def _eurosat(
    settings: Settings, part: str, data_dir: str | None
) -> episodes.Classes:
    images = _load("eurosat", "train", settings, data_dir)
    return images.split(train=0.6, validation=0.2, test=0.2, seed=0)[part]


def _eurosat_spatial(
    settings: Settings, part: str, data_dir: str | None
) -> episodes.Classes:
    size = _image_size(settings)
    return land_cover_data.eurosat_band(part, size, data_dir)


def _sen12ms_regions(
    settings: Settings, part: str, data_dir: str | None
) -> episodes.ClassGroups:
    size = _image_size(settings)
    return land_cover_data.sen12ms_scenes(part, size, data_dir)


def _load(
    name: str,
    split: str,
    settings: Settings,
    data_dir: str | None,
    **options: Any,
) -> episodes.Classes:
    """Returns a data set of classes, scaled if the settings ask for it."""
    return episodes.load_tfds(
        name,
        split,
        image_size=settings.image_size,
        interpolation="area",
        data_dir=data_dir,
        **options,
    )


def _image_size(settings: Settings) -> int | None:
    """Returns the side of the images."""
    return settings.image_size or DATA_SETS[settings.data_set].image_size


def _omniglot_network(ways: int, settings: Settings) -> keras.Model:
    if settings.network == "mlp":
        return omniglot_mlp(ways)
    pool = settings.network == "pool"
    return omniglot_conv(ways, filters=settings.filters, pool=pool)


def _pooling_network(ways: int, settings: Settings) -> keras.Model:
    return mini_imagenet_conv(
        ways, filters=settings.filters, image_size=_image_size(settings)
    )


def _land_cover_network(ways: int, settings: Settings) -> keras.Model:
    network = _pooling_network(ways, settings)
    if settings.network != "instance":
        return network
    # Normalizes each channel of each image alone.
    layers = [
        keras.layers.GroupNormalization(groups=-1)
        if isinstance(layer, keras.layers.BatchNormalization)
        else layer
        for layer in network.layers
    ]
    return keras.Sequential([keras.Input(network.input_shape[1:]), *layers])


DATA_SETS = {
    "omniglot": DataSet(
        "Omniglot",
        _omniglot,
        _omniglot_network,
        networks=("conv", "pool", "mlp"),
        defaults={"queries": 5, "test_tasks": 1000},
    ),
    "mini_imagenet": DataSet(
        "mini-ImageNet", _mini_imagenet, _pooling_network, image_size=84
    ),
    "cifar_fs": DataSet("CIFAR-FS", _cifar_fs, _pooling_network, image_size=32),
    # Four of its ten classes are left for validation and test.
    "eurosat": DataSet(
        "EuroSAT",
        _eurosat,
        _pooling_network,
        image_size=64,
        ways=2,
        train_ways=6,
    ),
    # The same ten classes everywhere; the regions differ.
    "eurosat_spatial": DataSet(
        "EuroSAT by longitude",
        _eurosat_spatial,
        _land_cover_network,
        networks=("pool", "instance"),
        image_size=_TILE_SIZE,
        train_ways=10,
    ),
    "sen12ms_regions": DataSet(
        "SEN12MS regions",
        _sen12ms_regions,
        _land_cover_network,
        networks=("pool", "instance"),
        image_size=_TILE_SIZE,
        ways=4,
        train_ways=4,
        defaults={"queries": 5},
    ),
}
