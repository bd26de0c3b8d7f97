"""Episodes from TensorFlow Datasets."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_meta.checks import check_bool
from keras_meta.checks import check_positive
from keras_meta.checks import describe
from keras_meta.episodes.arguments import as_list
from keras_meta.episodes.arguments import check_path
from keras_meta.episodes.arguments import check_string
from keras_meta.episodes.arrays import load_arrays
from keras_meta.episodes.cache import cache_folder
from keras_meta.episodes.cache import cached
from keras_meta.episodes.classes import Classes
from keras_meta.episodes.images import check_image_options
from keras_meta.episodes.images import finish
from keras_meta.episodes.images import pipeline_decoder
from keras_meta.episodes.splits import class_split

_READ_AT_ONCE = 256
# Raise this number when decoding or scaling changes, so that cached images
# are rebuilt.
_RECIPE = 2


def load_tfds(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    invert: bool = False,
    interpolation: str = "lanczos3",
    image_key: str | None = None,
    label_key: str | None = None,
    cache: bool = True,
    cache_dir: str | os.PathLike | None = None,
) -> Classes:
    """Loads an image classification data set from TensorFlow Datasets.

    A data set is downloaded only if it has not been prepared yet. The decoded
    images are cached, so the next start is quick.

    The splits of most data sets hold different images of the *same* classes;
    a few, such as Omniglot's, hold different classes. Load all the images to
    be used, for instance `"train+test"`, and split the classes with
    `Classes.split` or `Classes.split_by`.

    Args:
        name: Name of the data set, such as `"cifar100"`.
        split: Split or splits, such as `"train"`, `"train+test"` or
            `"train[:80%]"`.
        data_dir: Folder of the prepared data sets. By default, the folder
            that TensorFlow Datasets uses.
        image_size: Side of a square, `(height, width)`, or None if all images
            already have the same size.
        channels: 3 for color, 1 for gray, or None to keep the images' own.
        invert: Whether to swap black and white.
        interpolation: How to resize: `"lanczos3"`, `"lanczos5"`, `"area"`,
            `"bicubic"` or `"bilinear"`. All of them average when they scale
            down.
        image_key: Name of the image feature, if there are several.
        label_key: Name of the label feature, if there are several and the
            data set does not say which one to use.
        cache: Whether to cache the decoded images on disk.
        cache_dir: Folder of the cache. By default, `keras_meta` in `data_dir`
            if that is writable, else in the user's cache folder.

    Returns:
        `keras_meta.episodes.Classes` with images
        `[items, height, width, channels]`, uint8. The ids of the classes are
        the labels of the data set.

    Raises:
        ValueError: If there is no data set, split or feature of that name, if
            the data set has no images or labels, or if its images differ in
            size and `image_size` is None.

    Example:
    ```python
    classes = keras_meta.episodes.load_tfds("cifar100", "train+test")
    parts = classes.split(seed=0)
    episodes = parts["train"].episodes(ways=5, shots=1, queries=15, tasks=4)
    ```
    """
    image_size, channels = check_image_options(
        image_size, channels, interpolation
    )
    check_string(name=name, split=split)
    check_bool(invert=invert, cache=cache)
    for argument, value in (("data_dir", data_dir), ("cache_dir", cache_dir)):
        if value is not None:
            check_path(**{argument: value})
    builder = _builder(name, data_dir)
    image_key = _image_key(builder.info, image_key)
    label_key = _label_key(builder.info, label_key)
    _check_split(builder.info, split)
    finishing = {
        "image_size": image_size,
        "invert": bool(invert),
        "interpolation": interpolation,
    }

    def build() -> dict[str, np.ndarray]:
        images, labels = _read(
            builder, split, image_key, label_key, channels, finishing
        )
        # Sorted before caching, so that it is done only once.
        order = np.argsort(labels, kind="stable")
        return {"images": images[order], "labels": labels[order]}

    if cache:
        key = finishing | {
            "name": builder.info.full_name,
            "split": split,
            "channels": channels,
            "image_key": image_key,
            "label_key": label_key,
            "folder": os.fspath(builder.data_path),
            "files": _files(builder),
            "recipe": _RECIPE,
            "tensorflow": tf.__version__,
        }
        folder = cache_dir or cache_folder(_root(builder))
        arrays = cached(folder, key, build)
    else:
        arrays = build()
    return load_arrays(
        **arrays, names=_label_names(builder.info.features[label_key])
    )


def from_tfds(
    name: str,
    split: str,
    *,
    ways: int,
    shots: int,
    queries: int,
    tasks: int,
    data_dir: str | os.PathLike | None = None,
    classes: str | slice | Sequence[int] | Sequence[str] | None = None,
    rotations: Sequence[int] = (),
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    invert: bool = False,
    interpolation: str = "lanczos3",
    image_key: str | None = None,
    label_key: str | None = None,
    cache: bool = True,
    cache_dir: str | os.PathLike | None = None,
    **options: Any,
) -> tf.data.Dataset:
    """Few-shot classification episodes from TensorFlow Datasets.

    Args:
        name: Name of the data set, such as `"omniglot"`.
        split: Split or splits, such as `"train"` or `"train+test"`.
        ways: Number of classes in an episode.
        shots: Number of support images of each class.
        queries: Number of query images of each class.
        tasks: Number of episodes in a batch.
        data_dir: Folder of the prepared data sets. By default, the folder
            that TensorFlow Datasets uses.
        classes: Which classes to use: labels or names; a `slice` of the
            sorted classes, such as `slice(0, 64)`; a published split, such
            as `"cifar_fs/train"` (see `keras_meta.episodes.class_split`); or
            None for all.
        rotations: Angles, such as `(90, 180, 270)`; each adds a rotated
            version of every class as a new class.
        image_size: Side of a square, `(height, width)`, or None if all images
            already have the same size.
        channels: 3 for color, 1 for gray, or None to keep the images' own.
        invert: Whether to swap black and white.
        interpolation: How to resize. See `load_tfds`.
        image_key: Name of the image feature, if there are several.
        label_key: Name of the label feature, if there are several.
        cache: Whether to cache the decoded images on disk.
        cache_dir: Folder of the cache. See `load_tfds`.
        **options: `seed`, `start`, `num_batches`, `dtype`, `rotate`,
            `augment` and `shuffle`. See
            `keras_meta.episodes.Classes.episodes`.

    Returns:
        A `tf.data.Dataset` of `(x, y)`. `x["support_x"]` is
        `[tasks, ways * shots, height, width, channels]`, `x["support_y"]`
        is `[tasks, ways * shots]`, `x["query_x"]` is
        `[tasks, ways * queries, height, width, channels]` and `y` is
        `[tasks, ways * queries]`. Labels are int32 from 0 to `ways - 1`.

    Raises:
        ValueError: If `load_tfds` refuses the data set, or it is too small
            for the episodes.

    Example:
    ```python
    train = keras_meta.episodes.from_tfds(
        "cifar100",
        "train+test",
        classes="cifar_fs/train",
        ways=5,
        shots=1,
        queries=15,
        tasks=4,
    )
    ```
    """
    check_positive(ways=ways, shots=shots, queries=queries, tasks=tasks)
    loaded = load_tfds(
        name,
        split,
        data_dir=data_dir,
        image_size=image_size,
        channels=channels,
        invert=invert,
        interpolation=interpolation,
        image_key=image_key,
        label_key=label_key,
        cache=cache,
        cache_dir=cache_dir,
    )
    loaded = _selected(loaded, classes)
    if rotations is not None:
        loaded = loaded.rotations(*as_list("rotations", rotations))
    return loaded.episodes(
        ways=ways, shots=shots, queries=queries, tasks=tasks, **options
    )


def _selected(
    loaded: Classes,
    classes: str | slice | Sequence[int] | Sequence[str] | None,
) -> Classes:
    if classes is None:
        return loaded
    if isinstance(classes, str):
        classes = class_split(classes)
    if isinstance(classes, slice):
        try:
            classes = loaded.ids[classes]
        except (TypeError, ValueError) as error:
            raise ValueError(
                "`classes` must be a slice with integer bounds. Received: "
                f"classes={describe(classes)}"
            ) from error
    return loaded.select(classes)


def _builder(name: str, data_dir: str | os.PathLike | None) -> Any:
    # Imported here: the import takes seconds, which users of arrays are spared.
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name, known, n=5)
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        place = ""
        if data_dir is not None:
            place = f", or one prepared in {os.fspath(data_dir)!r}"
        raise ValueError(
            "`name` must be a data set known to TensorFlow Datasets"
            f"{place}. Received: name={name!r}.{hint} "
            "`tensorflow_datasets.list_builders()` lists them."
        ) from error
    if not os.path.exists(builder.data_dir):
        builder.download_and_prepare()
    return builder


def _check_split(info: Any, split: str) -> None:
    try:
        empty = not info.splits[split].num_examples
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"`split` must be a split of {info.name}. Received: split="
            f"{split!r}. It has {', '.join(sorted(info.splits))}; join several "
            "as in 'train+test'."
        ) from error
    if empty:
        raise ValueError(
            f"`split` must hold examples. Received: split={split!r} of "
            f"{info.name}, which is empty."
        )


def _root(builder: Any) -> Path:
    """Returns the folder of all data sets, which holds name and version.

    A builder without code takes the folder of the data set for it.
    """
    below = len(Path(builder.info.full_name).parts)
    return Path(builder.data_path).parents[below - 1]


def _files(builder: Any) -> list[list[str | int]]:
    """Returns the files of a data set with their sizes and times.

    They tell apart data sets of the same name in several folders, and a data
    set that was prepared again.
    """
    stated = [(path.name, path.stat()) for path in builder.data_path.iterdir()]
    return sorted([name, stat.length, stat.mtime] for name, stat in stated)


def _image_key(info: Any, key: str | None) -> str:
    import tensorflow_datasets as tfds

    images = [
        name
        for name, feature in info.features.items()
        if isinstance(feature, tfds.features.Image)
        and feature.np_dtype == np.uint8
    ]
    return _the_key(info, key, images, "image_key", "uint8 image")


def _label_key(info: Any, key: str | None) -> str:
    import tensorflow_datasets as tfds

    # Integers without names are labels only if the user says so.
    labels = [
        name
        for name, feature in info.features.items()
        if isinstance(feature, tfds.features.ClassLabel)
        or (name == key and _is_integer(feature))
    ]
    return _the_key(info, key, labels, "label_key", "label")


def _is_integer(feature: Any) -> bool:
    shape = getattr(feature, "shape", None)
    return shape == () and np.issubdtype(feature.np_dtype, np.integer)


def _the_key(
    info: Any, key: str | None, candidates: list[str], argument: str, kind: str
) -> str:
    if key is not None:
        if key not in candidates:
            raise ValueError(
                f"`{argument}` must be a {kind} of {info.name}. Received: "
                f"{argument}={describe(key)}. Its features are "
                f"{', '.join(sorted(info.features))}."
            )
        return key
    if not candidates:
        raise ValueError(
            f"{info.name} has no {kind} among its features, "
            f"{', '.join(sorted(info.features))}. Use another data set, or "
            "`keras_meta.episodes.from_arrays`."
        )
    supervised = info.supervised_keys or ()
    meant = [name for name in candidates if name in supervised] or candidates
    if len(meant) > 1:
        raise ValueError(
            f"{info.name} has several features that could be the {kind}: "
            f"{', '.join(sorted(meant))}. Choose with `{argument}`."
        )
    return meant[0]


def _label_names(feature: Any) -> list[str] | None:
    return getattr(feature, "names", None)


def _read(
    builder: Any,
    split: str,
    image_key: str,
    label_key: str,
    channels: int | None,
    finishing: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow_datasets as tfds

    shape = builder.info.features[image_key].shape
    if channels is None:
        # A color data set may contain gray files.
        channels = shape[-1]
    options = tf.data.Options()
    options.deterministic = True
    encoded = builder.as_dataset(
        split=split,
        decoders=tfds.decode.PartialDecoding(
            {image_key: True, label_key: True},
            decoders={image_key: tfds.decode.SkipDecoding()},
        ),
        read_config=tfds.ReadConfig(try_autocache=False),
    )

    decode = pipeline_decoder(channels)

    def prepare(example):
        image = finish(decode(example[image_key]), **finishing)
        return image, example[label_key]

    # Images can be read in batches only if they are known to have one size.
    same_size = finishing["image_size"] is not None or None not in shape
    prepared = (
        encoded.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(_READ_AT_ONCE if same_size else 1)
        .with_options(options)
    )
    try:
        images, labels = zip(*prepared.as_numpy_iterator(), strict=True)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            f"An image of {builder.info.name} cannot be decoded: "
            f"{error.message.splitlines()[0]}. Prepare the data set again from "
            "PNG or JPEG files."
        ) from error
    if len({batch.shape[1:] for batch in images}) > 1:
        raise ValueError(
            f"The images of {builder.info.name} differ in size. Set "
            "`image_size`."
        )
    return np.concatenate(images), np.concatenate(labels)
