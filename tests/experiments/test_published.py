import pytest

from experiments import published
from keras_meta.evaluation import Interval


@pytest.mark.parametrize(
    ("mean", "lower", "mark"),
    [
        (1.3, True, "same"),
        (1.31, True, "worse"),
        (1.31, False, "better"),
        (0.69, True, "better"),
        (0.69, False, "worse"),
    ],
)
def test_marks(mean, lower, mark):
    measured = Interval(mean, 0.1, 1000)
    assert published.compare(measured, Interval(1.0, 0.2, 100), lower) == mark


def test_rows_without_published_numbers_are_empty():
    assert published.sinusoid_mse("anil", 5) == {}
    assert published.sinusoid_mse("maml", 7) == {}
    accuracy = published.few_shot_accuracy
    assert accuracy("omniglot", "maml", "mlp", 20, 1) is None
    assert accuracy("omniglot", "maml", "pool", 5, 1).mean == 98.7
    assert accuracy("mini_imagenet", "anil", "pool", 5, 1) is None
    assert accuracy("mini_imagenet", "anil", "pool", 5, 5).mean == 61.5
    assert accuracy("eurosat", "maml", "pool", 5, 1) is None
