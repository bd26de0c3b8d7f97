"""Episodes from a folder of class folders."""

import os
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_meta.checks import check_bool
from keras_meta.checks import check_positive
from keras_meta.episodes.arguments import as_list
from keras_meta.episodes.arguments import check_path
from keras_meta.episodes.classes import Classes
from keras_meta.episodes.exif import orientation
from keras_meta.episodes.exif import turn_upright
from keras_meta.episodes.images import check_image_options
from keras_meta.episodes.images import decode
from keras_meta.episodes.images import finish
from keras_meta.episodes.images import why_not

_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
# Files that operating systems and archivers add, in lower case. Names that
# start with a dot are ignored as well.
_SYSTEM_NAMES = (
    "$recycle.bin",
    "@eadir",
    "__macosx",
    "desktop.ini",
    "ehthumbs.db",
    "ehthumbs_vista.db",
    "icon\r",
    "lost+found",
    "system volume information",
    "thumbs.db",
)
# Usual folder names for the parts of a data set.
_PARTS = {
    "train": ("train", "training", "trn"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}


def load_directory(
    path: str | os.PathLike,
    *,
    image_size: int | tuple[int, int] | None = None,
    channels: int = 3,
    invert: bool = False,
    interpolation: str = "lanczos3",
) -> Classes:
    """Reads a folder of class folders.

    Every folder that contains images is a class, named by its path relative
    to `path`: `dog`, or `Greek/character01`. Files and folders whose names
    start with a dot are ignored, and so are those of operating systems, such
    as `Thumbs.db` and `desktop.ini`.

    Files may be BMP, GIF, JPEG, PNG or WebP. Only the first frame of an
    animation is read; animated WebP is not supported. Transparency is
    dropped, CMYK becomes RGB, 16 bits become 8, and JPEG files are turned
    upright according to their EXIF data.

    Args:
        path: The folder. If each part of a data set has its own folder, such
            as `train` and `test`, pass the folder of one part.
        image_size: Side of a square, `(height, width)`, or None if all images
            already have the same size.
        channels: 3 for color, 1 for gray.
        invert: Whether to swap black and white.
        interpolation: How to resize: `"lanczos3"`, `"lanczos5"`, `"area"`,
            `"bicubic"` or `"bilinear"`. All of them average when they scale
            down.

    Returns:
        `keras_meta.episodes.Classes` with images
        `[items, height, width, channels]`, uint8, sorted by name.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If an argument is out of range, if the folder has no class
            folders, if it has the same classes once in each part of a data
            set, if a file cannot be read as an image, or if the images differ
            in size and `image_size` is None.
    """
    check_path(path=path)
    image_size, channels = check_image_options(
        image_size, channels, interpolation
    )
    check_bool(invert=invert)
    folders = _class_folders(Path(path))
    _check_parts(Path(path), list(folders))

    def read(file: Path) -> np.ndarray:
        return finish(
            _read(file, channels),
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
        path: The folder. Every folder in it that contains images is a class.
        ways: Number of classes in an episode.
        shots: Number of support images of each class.
        queries: Number of query images of each class.
        tasks: Number of episodes in a batch.
        classes: Names of the classes to use, or their positions in the
            sorted list of names, or None for all.
        rotations: Angles, such as `(90, 180, 270)`; each adds a rotated
            version of every class as a new class.
        image_size: Side of a square, `(height, width)`, or None if all images
            already have the same size.
        channels: 3 for color, 1 for gray.
        invert: Whether to swap black and white.
        interpolation: How to resize. See `load_directory`.
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
        FileNotFoundError: If there is no such folder.
        ValueError: If `load_directory` refuses the folder, or it has too few
            classes or images for the episodes.

    Example:
    ```python
    episodes = keras_meta.episodes.from_directory(
        "birds", ways=5, shots=1, queries=15, tasks=4, image_size=84
    )
    ```
    """
    check_positive(ways=ways, shots=shots, queries=queries, tasks=tasks)
    loaded = load_directory(
        path,
        image_size=image_size,
        channels=channels,
        invert=invert,
        interpolation=interpolation,
    )
    if classes is not None:
        loaded = loaded.select(classes)
    if rotations is not None:
        loaded = loaded.rotations(*as_list("rotations", rotations))
    return loaded.episodes(
        ways=ways, shots=shots, queries=queries, tasks=tasks, **options
    )


def _class_folders(root: Path) -> dict[str, list[Path]]:
    """Returns the image files of each class folder, by the folder's name."""
    if not root.is_dir():
        raise FileNotFoundError(
            "`path` must be an existing folder. Received: path="
            f"{os.fspath(root)!r}"
        )
    folders = {}
    for folder, subfolders, files in os.walk(
        root, followlinks=True, onerror=_raise
    ):
        subfolders[:] = [name for name in subfolders if _is_users(name)]
        images = [
            _checked_image(Path(folder) / name)
            for name in sorted(files)
            if _is_users(name)
        ]
        if images:
            folders[Path(folder).relative_to(root).as_posix()] = images
    if not folders:
        raise ValueError(
            f"`path` holds no images: {os.fspath(root)!r}. Put a folder of "
            "images for each class into it."
        )
    if "." in folders:
        raise ValueError(
            f"`path` holds {len(folders['.'])} images outside of a class "
            f"folder, such as {os.fspath(folders['.'][0])!r}. Put the images "
            "of each class into their own folder."
        )
    return dict(sorted(folders.items()))


def _raise(error: OSError) -> None:
    """Raises: a folder that cannot be listed must not be left out."""
    raise error


def _is_users(name: str) -> bool:
    return name[0] != "." and name.lower() not in _SYSTEM_NAMES


def _checked_image(file: Path) -> Path:
    if file.suffix.lower() not in _SUFFIXES:
        raise ValueError(
            f"{os.fspath(file)!r} cannot be read as an image: its name must "
            f"end in {', '.join(_SUFFIXES)}. Convert an image of another "
            "format to PNG; move other files out of the folder."
        )
    return file


def _check_parts(root: Path, names: list[str]) -> None:
    """Detects parts of a data set, such as `train`, where classes should be.

    A class that occurs in several parts would count as several classes, which
    is an error. Parts with different classes may be intended, so they only
    cause a warning.
    """
    paths = [tuple(name.split("/")) for name in names]
    first = len(os.path.commonprefix(paths))
    # The parts may contain the classes, or each class its parts.
    for place in (first, -1):
        parts = {path[place] for path in paths if len(path) > place}
        kinds = {_part_of(part) for part in parts}
        if None not in kinds and len(kinds) > 1:
            break
    else:
        return
    parts = sorted(parts)
    where = f"`path` holds the parts {parts} of a data set in {str(root)!r}"
    way_out = (
        f"Load one part at a time, such as "
        f"{os.path.join(root, *paths[0][:first], parts[0])!r}, in which each "
        "class has one folder; or move the images of each class into one."
    )
    classes = [path[:place] + path[place:][1:] for path in paths]
    most, times = Counter(classes).most_common(1)[0]
    if times > 1:
        trouble = "each part would count as a class"
        if most:
            trouble = f"class {'/'.join(most)!r} would count as {times} classes"
        raise ValueError(f"{where}: {trouble}. {way_out}")
    warnings.warn(
        f"{where}. Their classes are loaded together, as {names[0]!r} and so "
        f"on. {way_out}",
        stacklevel=3,
    )


def _part_of(folder: str) -> str | None:
    """Returns the part of a data set that a folder is named after."""
    for part, names in _PARTS.items():
        if folder.lower() in names:
            return part
    return None


def _read(file: Path, channels: int | None) -> tf.Tensor:
    """Reads an image and turns it upright."""
    content = file.read_bytes()
    try:
        image = decode(content, channels)
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            f"{os.fspath(file)!r} cannot be read as an image: "
            f"{why_not(content, error)}"
        ) from error
    return turn_upright(image, orientation(content))


def _check_same_size(files: list[Path], images: list[np.ndarray]) -> None:
    for file, image in zip(files, images, strict=True):
        if image.shape == images[0].shape:
            continue
        same_size = image.shape[:2] == images[0].shape[:2]
        raise ValueError(
            f"{os.fspath(file)!r} has the shape {image.shape}, but "
            f"{os.fspath(files[0])!r} has {images[0].shape}. Set "
            f"{'`channels`' if same_size else '`image_size`'}."
        )
