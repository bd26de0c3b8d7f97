"""Published splits of the classes of data sets.

The lists of Vinyals et al. and CIFAR-FS are those distributed with Torchmeta
(MIT licence), converted to the labels and names of TensorFlow Datasets. The
list of mini-ImageNet is the one distributed with "Optimization as a model for
few-shot learning" (MIT licence).
"""

from collections.abc import Callable
from itertools import chain

import numpy as np

from keras_meta.episodes.arguments import check_string

_CHARACTERS = 1623

# Label ranges of Omniglot in TensorFlow Datasets. Its splits "train" and "test"
# have the labels 0..963 and 964..1622.
_VINYALS = {
    "train": (
        (0, 26),
        (67, 131),
        (177, 250),
        (272, 465),
        (487, 728),
        (769, 1200),
    ),
    "validation": ((26, 67), (131, 177), (250, 272), (465, 487), (728, 769)),
    "test": ((1200, 1623),),
}

# Names of CIFAR-100's classes.
_CIFAR_FS = {
    "train": """
        apple aquarium_fish bear bee boy bottle bowl bridge bus can castle
        caterpillar chair clock cloud cockroach couch cup dinosaur dolphin
        elephant forest girl hamster house kangaroo keyboard lawn_mower lion
        lizard lobster mountain mouse mushroom oak_tree orange orchid
        palm_tree pear pine_tree plate porcupine possum rabbit raccoon ray
        road seal shrew skunk skyscraper snake spider squirrel streetcar
        sunflower tank tiger train trout tulip turtle willow_tree wolf
    """,
    "validation": """
        beaver beetle butterfly camel cattle crab crocodile flatfish lamp
        maple_tree motorcycle otter sea shark television tractor
    """,
    "test": """
        baby bed bicycle chimpanzee fox leopard man pickup_truck plain poppy
        rocket rose snail sweet_pepper table telephone wardrobe whale woman
        worm
    """,
}

# WordNet ids.
_MINI_IMAGENET = {
    "train": """
        n01532829 n01558993 n01704323 n01749939 n01770081 n01843383 n01910747
        n02074367 n02089867 n02091831 n02101006 n02105505 n02108089 n02108551
        n02108915 n02111277 n02113712 n02120079 n02165456 n02457408 n02606052
        n02687172 n02747177 n02795169 n02823428 n02966193 n03017168 n03047690
        n03062245 n03207743 n03220513 n03337140 n03347037 n03400231 n03476684
        n03527444 n03676483 n03838899 n03854065 n03888605 n03908618 n03924679
        n03998194 n04067472 n04243546 n04251144 n04258138 n04275548 n04296562
        n04389033 n04435653 n04443257 n04509417 n04515003 n04596742 n04604644
        n04612504 n06794110 n07584110 n07697537 n07747607 n09246464 n13054560
        n13133613
    """,
    "validation": """
        n01855672 n02091244 n02114548 n02138441 n02174001 n02950826 n02971356
        n02981792 n03075370 n03417042 n03535780 n03584254 n03770439 n03773504
        n03980874 n09256479
    """,
    "test": """
        n01930112 n01981276 n02099601 n02110063 n02110341 n02116738 n02129165
        n02219486 n02443484 n02871525 n03127925 n03146219 n03272010 n03544143
        n03775546 n04146614 n04149813 n04418357 n04522168 n07613480
    """,
}


def class_split(name: str) -> list[int] | list[str]:
    """Returns the classes of one part of a published split.

    Args:
        name: A split and a part of it, such as `"cifar_fs/train"`. Parts
            are `train`, `validation`, `test`, and several of them joined by
            a plus sign. Splits are

            *   `random1200` of Omniglot: 1100, 100 and 423 characters from a
                fixed random draw.
            *   `vinyals` of Omniglot: 1028, 172 and 423 characters.
            *   `mini_imagenet`: 64, 16 and 20 classes, as WordNet ids.
            *   `cifar_fs` of CIFAR-100: 64, 16 and 20 classes, as names.

    Returns:
        Labels or names of the classes, for
        `keras_meta.episodes.Classes.select`.

    Raises:
        ValueError: If there is no such split or part.

    References:
        Finn, Abbeel and Levine, Model-agnostic meta-learning, 2017.
        Vinyals et al., Matching networks for one shot learning, 2016.
        Ravi and Larochelle, Optimization as a model for few-shot learning,
        2017.
        Bertinetto et al., Meta-learning with differentiable closed-form
        solvers, 2019.

    Example:
    >>> len(class_split("vinyals/train")), len(class_split("cifar_fs/test"))
    (1028, 20)
    """
    check_string(name=name)
    split, _, parts = name.partition("/")
    if split not in _splits():
        raise ValueError(
            "`name` must be a published split of classes. Received: name="
            f"{name!r}. The splits are {', '.join(_splits())}; add a part, as "
            "in 'cifar_fs/train'."
        )
    classes = _splits()[split]()
    for part in parts.split("+"):
        if part not in classes:
            raise ValueError(
                f"`name` must name a part of a split. Received: name={name!r}. "
                f"The parts are {', '.join(classes)}, as in '{split}/train'."
            )
    return list(chain.from_iterable(classes[p] for p in parts.split("+")))


def _splits() -> dict[str, Callable[[], dict[str, list]]]:
    return {
        "random1200": _random_1200,
        "vinyals": _vinyals,
        "mini_imagenet": lambda: _words(_MINI_IMAGENET),
        "cifar_fs": lambda: _words(_CIFAR_FS),
    }


def _random_1200() -> dict[str, list[int]]:
    # RandomState, because its stream is frozen across NumPy versions.
    order = np.random.RandomState(1).permutation(_CHARACTERS)
    train, validation, test = np.split(order, [1100, 1200])
    return {
        "train": np.sort(train).tolist(),
        "validation": np.sort(validation).tolist(),
        "test": np.sort(test).tolist(),
    }


def _vinyals() -> dict[str, list[int]]:
    return {
        part: list(chain.from_iterable(range(*bounds) for bounds in ranges))
        for part, ranges in _VINYALS.items()
    }


def _words(parts: dict[str, str]) -> dict[str, list[str]]:
    return {part: names.split() for part, names in parts.items()}
