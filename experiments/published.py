"""Published numbers to compare runs with."""

from __future__ import annotations

from keras_meta.evaluation import Interval

_META_SGD_TASKS = 100
_MAML_TASKS = 600


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


def omniglot_accuracy(
    algorithm: str, network: str, ways: int, shots: int
) -> Interval | None:
    """Returns the accuracy in percent, or `None` if there is no published one.

    Args:
        algorithm: `"maml"`, `"fomaml"`, `"implicit_maml"`, `"meta_sgd"` or
            `"reptile"`. The last uses the statistics of the whole query set.
        network: `"conv"`, or `"mlp"` for the fully connected network.
        ways: Number of classes in a task.
        shots: Number of support images of each class.

    References:
        - [Finn et al., 2017](https://arxiv.org/abs/1703.03400), table 1.
        - [Li et al., 2017](https://arxiv.org/abs/1707.09835), table 2.
        - [Nichol et al., 2018](https://arxiv.org/abs/1803.02999), table 2.
        - [Rajeswaran et al., 2019](https://arxiv.org/abs/1909.04630),
          table 2, for first-order and for implicit MAML, with gradient
          descent in its inner loop.
    """
    columns = ((5, 1), (5, 5), (20, 1), (20, 5))
    rows = {
        ("maml", "conv"): ((98.7, 0.4), (99.9, 0.1), (95.8, 0.3), (98.9, 0.2)),
        ("fomaml", "conv"): (
            (98.3, 0.5),
            (99.2, 0.2),
            (89.4, 0.5),
            (97.9, 0.1),
        ),
        ("implicit_maml", "conv"): (
            (99.16, 0.35),
            (99.67, 0.12),
            (94.46, 0.42),
            (98.69, 0.1),
        ),
        ("meta_sgd", "conv"): (
            (99.53, 0.26),
            (99.93, 0.09),
            (95.93, 0.38),
            (98.97, 0.19),
        ),
        ("reptile", "conv"): (
            (97.68, 0.04),
            (99.48, 0.06),
            (89.43, 0.14),
            (97.12, 0.32),
        ),
        ("maml", "mlp"): ((89.7, 1.1), (97.5, 0.6)),
    }
    row = rows.get((algorithm, network), ())
    cells = dict(zip(columns, row, strict=False))
    cell = cells.get((ways, shots))
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
