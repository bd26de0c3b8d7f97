"""Published numbers to compare runs with."""

from __future__ import annotations

from keras_meta.evaluation import Interval

_META_SGD_TASKS = 100
_MAML_TASKS = 600


# Ways and shots of the columns of the next table.
_COLUMNS = ((5, 1), (5, 5), (20, 1), (20, 5))
_FEW_SHOT = {
    ("omniglot", "conv"): {
        "maml": ((98.7, 0.4), (99.9, 0.1), (95.8, 0.3), (98.9, 0.2)),
        "fomaml": ((98.3, 0.5), (99.2, 0.2), (89.4, 0.5), (97.9, 0.1)),
        "implicit_maml": (
            (99.16, 0.35),
            (99.67, 0.12),
            (94.46, 0.42),
            (98.69, 0.1),
        ),
        "meta_sgd": (
            (99.53, 0.26),
            (99.93, 0.09),
            (95.93, 0.38),
            (98.97, 0.19),
        ),
        "reptile": (
            (97.68, 0.04),
            (99.48, 0.06),
            (89.43, 0.14),
            (97.12, 0.32),
        ),
        "maml_plus_plus": ((99.47, 0), (99.85, 0), (97.65, 0), (99.33, 0)),
        "prototypical": ((98.8, 0), (99.7, 0), (96.0, 0), (98.9, 0)),
        "matching": ((98.1, 0), (98.9, 0), (93.8, 0), (98.5, 0)),
        "siamese": ((97.3, 0), (98.4, 0), (88.2, 0), (97.0, 0)),
        "snail": ((99.07, 0), (99.78, 0), (97.64, 0), (99.36, 0)),
    },
    ("omniglot", "mlp"): {
        "maml": ((89.7, 1.1), (97.5, 0.6)),
        "mann": ((82.8, 0), (94.9, 0)),
    },
    ("mini_imagenet", "conv"): {
        "maml": ((48.70, 1.84), (63.11, 0.92), (16.49, 0.58), (19.29, 0.29)),
        "fomaml": ((48.07, 1.75), (63.15, 0.91)),
        "meta_sgd": (
            (50.47, 1.87),
            (64.03, 0.94),
            (17.56, 0.64),
            (28.92, 0.35),
        ),
        "maml_plus_plus": ((52.40, 0), (67.15, 0)),
        "anil": (None, (61.5, 0)),
        "reptile": (None, (66.0, 0)),
        "meta_learner_lstm": (
            (43.44, 0.77),
            (60.60, 0.71),
            (16.70, 0.23),
            (26.06, 0.25),
        ),
        "prototypical": ((49.4, 0), (68.2, 0)),
        "matching": ((43.56, 0.84), (55.31, 0.73), (17.31, 0.22), (22.69, 0.2)),
        "fine_tuning": ((28.86, 0.54), (49.79, 0.79)),
        "nearest_neighbour": ((41.08, 0.70), (51.04, 0.65)),
        "baseline_plus_plus": ((48.24, 0), (66.43, 0)),
        "logistic_regression": ((55.25, 0.58), (71.56, 0.52)),
    },
    ("cifar_fs", "conv"): {"ridge": ((65.3, 0.2), (79.4, 0.1))},
}


def sinusoid_mse(algorithm: str, train_shots: int) -> dict[int, Interval]:
    """Returns mean squared errors after one step, by number of test shots.

    Args:
        algorithm: `"maml"` or `"meta_sgd"`. Others have no published row.
        train_shots: Number of support points in training.

    References:
        - [Li et al., 2017](https://arxiv.org/abs/1707.09835), table 1.
    """
    rows = {
        ("maml", 5): ((1.13, 0.18), (0.85, 0.14), (0.71, 0.12)),
        ("maml", 10): ((1.17, 0.16), (0.77, 0.11), (0.56, 0.08)),
        ("maml", 20): ((1.29, 0.20), (0.76, 0.12), (0.48, 0.08)),
        ("meta_sgd", 5): ((0.90, 0.16), (0.63, 0.12), (0.50, 0.10)),
        ("meta_sgd", 10): ((0.88, 0.14), (0.53, 0.09), (0.35, 0.06)),
        ("meta_sgd", 20): ((1.01, 0.17), (0.54, 0.08), (0.31, 0.05)),
    }
    row = rows.get((algorithm, train_shots), ())
    return {
        shots: Interval(*cell, _META_SGD_TASKS)
        for shots, cell in zip((5, 10, 20), row, strict=False)
    }


def few_shot_accuracy(
    data_set: str, learner: str, network: str, ways: int, shots: int
) -> Interval | None:
    """Returns the accuracy in percent, or `None` if there is no published one.

    Where no interval is known, its half width is 0.

    Args:
        data_set: `"omniglot"`, `"mini_imagenet"` or `"cifar_fs"`. Others have
            no published numbers of this kind.
        learner: Name of the learner. Reptile uses the statistics of the whole
            query set.
        network: `"mlp"` for the fully connected network, or another name for
            a convolutional network.
        ways: Number of classes in a task.
        shots: Number of support images of each class.

    References:
        - [Finn et al., 2017](https://arxiv.org/abs/1703.03400), table 1, for
          MAML, first-order MAML on mini-ImageNet, and what they compare
          with: MANN, Siamese networks, fine-tuning, the nearest neighbour.
        - [Li et al., 2017](https://arxiv.org/abs/1707.09835), tables 2 and 3,
          for Meta-SGD, and the 20-way rows of mini-ImageNet.
        - [Rajeswaran et al., 2019](https://arxiv.org/abs/1909.04630),
          table 2, for first-order and for implicit MAML on Omniglot, with
          gradient descent in its inner loop.
        - [Nichol et al., 2018](https://arxiv.org/abs/1803.02999), tables 1
          and 2, for Reptile.
        - [Antoniou et al., 2019](https://arxiv.org/abs/1810.09502), for
          MAML++, an ensemble of the best five checkpoints.
        - [Raghu et al., 2020](https://arxiv.org/abs/1909.09157), for ANIL.
        - [Snell et al., 2017](https://arxiv.org/abs/1703.05175), tables 1 and
          2, for prototypical networks.
        - [Vinyals et al., 2016](https://arxiv.org/abs/1606.04080), for
          matching networks on Omniglot.
        - [Ravi and Larochelle, 2017](https://openreview.net/forum?id=rJY0-Kcll),
          table 1, for the meta-learner LSTM and for matching networks on
          mini-ImageNet.
        - [Chen et al., 2019](https://arxiv.org/abs/1904.04232), table 1, for
          Baseline++.
        - [Tian et al., 2020](https://arxiv.org/abs/2003.11539), for logistic
          regression on features of four convolutions.
        - [Mishra et al., 2018](https://arxiv.org/abs/1707.03141), for SNAIL.
        - [Lee et al., 2019](https://arxiv.org/abs/1904.03758), who give
          R2-D2, which is the ridge head, on CIFAR-FS.
    """
    kind = "mlp" if network == "mlp" else "conv"
    row = _FEW_SHOT.get((data_set, kind), {}).get(learner, ())
    cell = dict(zip(_COLUMNS, row, strict=False)).get((ways, shots))
    return None if cell is None else Interval(*cell, _MAML_TASKS)


def compare(measured: Interval, published: Interval, lower: bool) -> str:
    """Compares a measurement with a published number.

    Args:
        measured: The measurement.
        published: The published interval.
        lower: Whether lower is better.

    Returns:
        `"better"` or `"worse"` if the intervals do not overlap, else `"same"`.
    """
    difference = measured.mean - published.mean
    if abs(difference) <= measured.half_width + published.half_width:
        return "same"
    return "better" if (difference < 0) == lower else "worse"
