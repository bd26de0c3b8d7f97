"""Small data in which each item encodes its class and its number."""

import numpy as np

from keras_meta.episodes import Classes


def numbered_classes(counts):
    """Feature vectors `[class, number within the class]`."""
    items = [
        (label, number)
        for label, count in enumerate(counts)
        for number in range(count)
    ]
    names = [f"class{label}" for label in range(len(counts))]
    return Classes(np.array(items, "float32"), counts, names)


def random_images(classes=6, each=4, size=5, channels=1, seed=0):
    """uint8 images and their labels, unsorted."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(classes), each))
    shape = (classes * each, size, size, channels)
    return rng.integers(0, 256, shape, "uint8"), labels


def arrays_of(batch):
    """A batch as a flat list of arrays."""
    x, y = batch
    return [x[key].numpy() for key in sorted(x)] + [y.numpy()]
