"""Episodes from a folder of class folders."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_meta.checks import check_bool
from keras_meta.episodes.classes import Classes
from keras_meta.episodes.images import check_image_options
from keras_meta.episodes.images import decode
from keras_meta.episodes.images import finish

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")


def load_directory(
    path: str | os.PathLike,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int = 3,
    invert: bool = False,
    interpolation: str = "lanczos3",
) -> Classes:
    """Reads a folder of class folders.

    Every folder that holds images is a class, named by its path below
    `path`: `dog`, or `Greek/character01`. Files and folders whose name
    begins with a dot are passed over.

    Args:
        path: The folder.
        image_size: One side of a square, `(height, width)`, or None if all
            images have the same size already.
        channels: 3 for color, 1 for gray.
        invert: Whether black becomes white.
        interpolation: Way to scale: `"lanczos3"`, `"lanczos5"`, `"area"`,
            `"bicubic"` or `"bilinear"`, each averaging when scaling down.

    Returns:
        `keras_meta.episodes.Classes` with images
        `[items, height, width, channels]`, uint8, sorted by name.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no class folders, a file is no image, or the
            images differ in size and `image_size` is None.
    """
    check_bool(invert=invert)
    image_size = check_image_options(image_size, channels, interpolation)
    folders = _class_folders(Path(path))

    def read(file: Path) -> np.ndarray:
        try:
            image = decode(tf.io.read_file(os.fspath(file)), channels)
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(
                f"{os.fspath(file)!r} cannot be read as an image. Repair it, "
                "or take it out of the folder."
            ) from error
        return finish(
            image,
            image_size=image_size,
            invert=invert,
            interpolation=interpolation,
        ).numpy()

    files = [file for images in folders.values() for file in images]
    with ThreadPoolExecutor() as pool:
        images = list(pool.map(read, files))
    _check_same_size(files, images)
    counts = [len(images) for images in folders.values()]
    return Classes(np.stack(images), counts, list(folders))


def from_directory(
    path: str | os.PathLike,
    *,
    ways: int,
    shots: int,
    queries: int,
    tasks: int,
    classes: Sequence[int] | Sequence[str] | None = None,
    rotations: Sequence[int] = (),
    image_size: int | tuple[int, int] | None = None,
    channels: int = 3,
    invert: bool = False,
    interpolation: str = "lanczos3",
    **options: Any,
) -> tf.data.Dataset:
    """Few-shot classification episodes from a folder of class folders.

    Args:
        path: The folder. Every folder in it that holds images is a class.
        ways: Number of classes in an episode.
        shots: Number of support images of each class.
        queries: Number of query images of each class.
        tasks: Number of episodes in a batch.
        classes: Names of the classes to use, or their positions in the
            sorted list of names, or None for all.
        rotations: Angles, such as `(90, 180, 270)`; each adds a rotated
            version of every class as a new class.
        image_size: One side of a square, `(height, width)`, or None if all
            images have the same size already.
        channels: 3 for color, 1 for gray.
        invert: Whether black becomes white.
        interpolation: Way to scale, see `load_directory`.
        **options: `seed`, `start`, `num_batches`, `dtype`, `rotate`,
            `augment` and `shuffle`, see
            `keras_meta.episodes.Classes.episodes`.

    Returns:
        A `tf.data.Dataset` of `(x, y)`. `x["support_x"]` is
        `[tasks, ways * shots, height, width, channels]`, `x["support_y"]`
        is `[tasks, ways * shots]`, `x["query_x"]` is
        `[tasks, ways * queries, height, width, channels]` and `y` is
        `[tasks, ways * queries]`. Labels are int32 from 0 to `ways - 1`.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If the folder cannot be used, see `load_directory`, or
            holds too little for the episodes.

    Example:
    ```python
    episodes = keras_meta.episodes.from_directory(
        "birds", ways=5, shots=1, queries=15, tasks=4, image_size=84
    )
    ```
    """
    loaded = load_directory(
        path,
        image_size=image_size,
        channels=channels,
        invert=invert,
        interpolation=interpolation,
    )
    if classes is not None:
        loaded = loaded.select(classes)
    if rotations:
        loaded = loaded.rotations(*rotations)
    return loaded.episodes(
        ways=ways, shots=shots, queries=queries, tasks=tasks, **options
    )


def _class_folders(root: Path) -> dict[str, list[Path]]:
    if not root.is_dir():
        raise FileNotFoundError(
            f"`path` must be a folder; there is none at {os.fspath(root)!r}."
        )
    folders = {}
    for folder, subfolders, files in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in subfolders if name[0] != "."]
        images = [
            _checked_image(Path(folder) / name)
            for name in sorted(files)
            if name[0] != "."
        ]
        if images:
            folders[Path(folder).relative_to(root).as_posix()] = images
    if not folders:
        raise ValueError(
            f"`path` holds no images: {os.fspath(root)!r}. Put the images of "
            "each class into a folder of their own in it."
        )
    if "." in folders:
        raise ValueError(
            f"`path` holds {len(folders['.'])} images outside of a class "
            f"folder, such as {os.fspath(folders['.'][0])!r}. Put the images "
            "of each class into a folder of their own."
        )
    return dict(sorted(folders.items()))


def _checked_image(file: Path) -> Path:
    if file.suffix.lower() not in _SUFFIXES:
        raise ValueError(
            f"{os.fspath(file)!r} is no image: its name must end in "
            f"{', '.join(_SUFFIXES)}. Take it out of the folder."
        )
    return file


def _check_same_size(files: list[Path], images: list[np.ndarray]) -> None:
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise ValueError(
                f"{os.fspath(file)!r} has the shape {image.shape}, but "
                f"{os.fspath(files[0])!r} has {images[0].shape}. Give an "
                "`image_size`."
            )
