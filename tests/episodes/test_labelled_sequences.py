"""Sequences of labelled items whose labels come one item late."""

import numpy as np
import tensorflow as tf

from keras_meta.episodes import LabelledSequences
from keras_meta.episodes import load_arrays
from keras_meta.episodes import offset_labels
from tests.learners.helpers import refuses

_WAYS, _EACH = 3, 4


def _sequences(seed=0):
    # An item holds its own number; ten of each class.
    items = np.arange(50.0)[:, None]
    classes = load_arrays(items, np.arange(50) // 10)
    return LabelledSequences(
        classes.sampler(ways=_WAYS, shots=1, queries=_EACH - 1, seed=seed)
    )


def test_labels_come_one_item_late():
    labels = np.array([[2, 0, 1, 1], [1, 1, 2, 0]])
    late = offset_labels(labels, _WAYS).numpy()
    np.testing.assert_array_equal(late[:, 0], 0.0)
    np.testing.assert_array_equal(late[:, 1:], np.eye(_WAYS)[labels[:, :-1]])


def test_a_sequence_has_all_items_of_each_class():
    x, y = _sequences().draw(5, tasks=8)
    assert x["items"].shape == [8, _WAYS * _EACH, 1]
    np.testing.assert_array_equal(x["previous_y"], offset_labels(y, _WAYS))
    items = x["items"].numpy()[..., 0].astype(int)
    for row, labels in zip(items, y.numpy(), strict=True):
        assert len(set(row)) == _WAYS * _EACH
        assert np.bincount(labels).tolist() == [_EACH] * _WAYS
        # A label stands for one class.
        assert len({*zip(row // 10, labels, strict=True)}) == _WAYS


def test_orders_differ_and_depend_on_the_index_alone():
    sequences = _sequences()
    x, y = sequences.draw(0, tasks=6)
    assert len({row.tobytes() for row in y.numpy()}) == 6
    alone, _ = sequences.draw(4)
    np.testing.assert_array_equal(alone["items"][0], x["items"][4])
    other, _ = _sequences(seed=1).draw(0, tasks=6)
    assert np.any(other["items"] != x["items"])
    batches = list(sequences.dataset(tasks=2, start=2, num_batches=2))
    found = tf.concat([batch["items"] for batch, _ in batches], axis=0)
    np.testing.assert_array_equal(found, x["items"][2:])


def test_the_first_item_may_be_of_any_class():
    """Labels are not sorted: a class may come again before another comes."""
    _, y = _sequences().draw(0, tasks=64)
    assert set(y[:, 0].numpy()) == {0, 1, 2}
    assert np.any(y[:, 0] == y[:, 1]) and np.any(y[:, 0] != y[:, 1])


def test_bad_arguments_are_refused():
    with refuses(TypeError, "`sampler` must be an EpisodeSampler"):
        LabelledSequences(load_arrays(np.zeros([4, 1]), [0, 0, 1, 1]))
    with refuses(ValueError, "`tasks` must be a positive integer"):
        _sequences().dataset(tasks=0)
    with refuses(ValueError, "`ways` must be .* at least 2"):
        offset_labels([[0, 0]], 1)
    with refuses(ValueError, "`labels` must be in 0..1.*label 2"):
        offset_labels([[0, 2]], 2)
    for labels in ([0, 1], [[0.0, 1.0]]):
        with refuses(ValueError, "`labels` must be class numbers"):
            offset_labels(labels, 2)
