"""Omniglot, prepared as in few-shot papers."""

import os
from collections.abc import Sequence

from keras_meta.checks import check_choice
from keras_meta.episodes.arguments import as_list
from keras_meta.episodes.arguments import check_string
from keras_meta.episodes.catalog import load_tfds
from keras_meta.episodes.classes import Classes
from keras_meta.episodes.splits import class_split

_PROTOCOLS = ("random1200", "vinyals")
_TRAINING_ROTATIONS = (90, 180, 270)


def omniglot(
    split: str,
    *,
    protocol: str = "random1200",
    rotations: Sequence[int] | None = None,
    image_size: int = 28,
    invert: bool = True,
    data_dir: str | os.PathLike | None = None,
    cache: bool = True,
    cache_dir: str | os.PathLike | None = None,
) -> Classes:
    """Loads Omniglot's characters as few-shot papers use them.

    By default, images are scaled to 28x28 with a Lanczos filter and inverted:
    ink is bright, paper is dark.

    Args:
        split: `"train"`, `"validation"`, `"test"`, or several, such as
            `"train+validation"`.
        protocol: `"random1200"` for 1100, 100 and 423 characters drawn at
            random from both of Omniglot's sets, or `"vinyals"` for the 1028,
            172 and 423 characters of the list that most later papers use.
        rotations: Angles; each adds a rotated version of every character as a
            new class. By default, `(90, 180, 270)` if the split has training
            classes, else none. MAML's published code instead turns the
            classes of each episode at random, even in tests: pass
            `rotations=()` here and `rotate="class"` to `Classes.episodes`.
        image_size: Side of the images.
        invert: Whether to draw bright ink on dark paper.
        data_dir: Folder of the prepared data sets. By default, the folder
            that TensorFlow Datasets uses.
        cache: Whether to cache the scaled images on disk.
        cache_dir: Folder of the cache. See `keras_meta.episodes.load_tfds`.

    Returns:
        `keras_meta.episodes.Classes` with 20 images
        `[image_size, image_size, 1]` of each class, uint8.

    Raises:
        ValueError: If `split` or `protocol` is unknown.

    References:
        Lake, Salakhutdinov and Tenenbaum, Human-level concept learning
        through probabilistic program induction, 2015.
        Santoro et al., Meta-learning with memory-augmented neural networks,
        2016 (rotations).
        Finn, Abbeel and Levine, Model-agnostic meta-learning, 2017.

    Example:
    ```python
    train = keras_meta.episodes.omniglot("train").episodes(
        ways=20, shots=1, queries=15, tasks=16
    )
    ```
    """
    check_choice("protocol", protocol, _PROTOCOLS)
    check_string(split=split)
    if rotations is not None:
        rotations = as_list("rotations", rotations)
    try:
        chosen = class_split(f"{protocol}/{split}")
    except ValueError as error:
        raise ValueError(
            "`split` must be 'train', 'validation', 'test', or several, such "
            f"as 'train+validation'. Received: split={split!r}"
        ) from error
    classes = load_tfds(
        "omniglot",
        "train+test",
        label_key="label",
        data_dir=data_dir,
        image_size=image_size,
        channels=1,
        invert=invert,
        cache=cache,
        cache_dir=cache_dir,
    ).select(chosen)
    if rotations is None:
        training = "train" in split.split("+")
        rotations = _TRAINING_ROTATIONS if training else ()
    return classes.rotations(*rotations)
