"""Single examples of many classes."""

import numpy as np
import pytest

from keras_meta.episodes import Classes

from .episode_cases import numbered_classes


def _pairs(batch):
    x, y = batch
    assert x[:, 0].numpy().tolist() == y.numpy().tolist()
    return [tuple(row) for row in x.numpy().tolist()]


def test_each_item_comes_once_before_any_comes_again():
    classes = numbered_classes([2, 3, 4])
    batches = list(classes.examples(6, seed=1, num_batches=6))
    drawn = [pair for batch in batches for pair in _pairs(batch)]
    rounds = [drawn[i : i + 9] for i in range(0, 36, 9)]
    expected = sorted((k, i) for k, n in enumerate([2, 3, 4]) for i in range(n))
    assert all(sorted(one) == expected for one in rounds)
    assert len({tuple(one) for one in rounds}) == 4


def test_an_example_depends_on_the_seed_and_its_index():
    classes = numbered_classes([2, 3, 4])

    def draw(size, **options):
        batches = classes.examples(size, **options)
        return [pair for batch in batches for pair in _pairs(batch)]

    stream = draw(12, num_batches=2)
    assert draw(4, start=8, num_batches=4) == stream[8:]
    assert draw(12, num_batches=2, seed=1) != stream


def test_classes_are_numbered_by_their_places():
    classes = numbered_classes([2, 3, 4]).select([2, 0])
    ((x, y),) = classes.examples(6, num_batches=1)
    assert x[:, 0].numpy().tolist() == [2 - 2 * k for k in y.numpy().tolist()]


def test_items_are_turned_and_keep_their_class():
    images = np.zeros([2, 3, 3, 1], "uint8")
    images[:, 0, 0], images[1, 1, 1] = 255, 255
    classes = Classes(images, [1, 1], ["corner", "both"])
    ((x, y),) = classes.examples(64, rotate="item", num_batches=1)
    corners = x.numpy()[:, [0, 0, 2, 2], [0, 2, 0, 2], 0]
    assert set(corners.argmax(1)) == {0, 1, 2, 3}
    np.testing.assert_array_equal(corners.sum(1), 1.0)
    np.testing.assert_array_equal(x[:, 1, 1, 0], y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"dtype": "int8"}, "`dtype` must be one of"),
        ({"rotate": "class"}, "`rotate` must be one of None, 'item'"),
        ({"rotate": "item"}, "Rotations need square images"),
        ({"num_batches": 0}, "`num_batches` must be a positive integer"),
    ],
)
def test_bad_streams_of_examples_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        numbered_classes([2, 3]).examples(**options)
