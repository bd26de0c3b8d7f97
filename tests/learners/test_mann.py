"""Memory-augmented networks, against the whole sequence of each query."""

import keras
import numpy as np
import pytest

import keras_meta
from keras_meta.episodes import offset_labels

from .helpers import WAYS
from .helpers import assert_adapts_to_one_task
from .helpers import classification
from .helpers import refuses

pytestmark = pytest.mark.usefixtures("float64")


def _encoder():
    return keras.Sequential([keras.Input([2]), keras.layers.Dense(4, "tanh")])


def _small_cell():
    return keras_meta.sequence.MemoryCell(
        units=5, slots=12, slot_size=4, heads=2
    )


def _stacked():
    cells = [keras.layers.LSTMCell(4), keras.layers.GRUCell(3)]
    return keras.layers.StackedRNNCells(cells)


CELLS = {
    "gru": lambda: keras.layers.GRUCell(4),
    "memory": _small_cell,
    "stacked": _stacked,
}


def _mann(make_cell=_small_cell, **options):
    keras.utils.set_random_seed(0)
    return keras_meta.MANN(_encoder(), WAYS, make_cell(), **options)


def _tasks():
    x, y = classification(tasks=2)
    return {**x, "query_x": x["query_x"][:, :2]}, y[:, :2]


@pytest.mark.slow_variants("gru", "stacked")
@pytest.mark.parametrize("name", CELLS)
def test_a_query_is_the_last_item_of_its_sequence(name):
    learner = _mann(CELLS[name])
    x, _ = _tasks()
    found = learner(x)
    # The label of the query comes last, and is not shown.
    labels = np.concatenate([x["support_y"], np.zeros([2, 1], int)], axis=1)
    for i in range(found.shape[1]):
        query = x["query_x"][:, i : i + 1]
        items = np.concatenate([x["support_x"], query], axis=1)
        sequences = {
            "items": items,
            "previous_y": offset_labels(labels, WAYS),
        }
        expected = learner.network(sequences)[:, -1]
        np.testing.assert_allclose(found[:, i], expected, rtol=1e-12)


def test_queries_do_not_see_each_other():
    learner = _mann()
    x, _ = _tasks()
    other = {**x, "query_x": x["query_x"].copy()}
    other["query_x"][:, 1:] = 9.0
    adapted = learner.adapt_tasks(x)
    one, two = (learner.predict_tasks(adapted, i) for i in (x, other))
    np.testing.assert_array_equal(one[:, 0], two[:, 0])
    assert np.all(one[:, 1:] != two[:, 1:])


def test_the_last_label_comes_with_the_query():
    learner = _mann()
    x, _ = _tasks()
    other = {**x, "support_y": (x["support_y"] + [0, 0, 0, 0, 0, 1]) % WAYS}
    (state, label), (after, changed) = map(learner.adapt_tasks, (x, other))
    for one, two in zip(state, after, strict=True):
        np.testing.assert_array_equal(one, two)
    for found, inputs in ((label, x), (changed, other)):
        expected = np.eye(WAYS)[inputs["support_y"][:, -1]]
        np.testing.assert_array_equal(found, expected)


def test_the_network_is_that_of_the_learner():
    learner = _mann()
    assert {id(v) for v in learner.network.trainable_variables} == {
        id(v) for v in learner.trainable_variables
    }
    assert len(learner.trainable_variables) == 2 + 6 + 2
    published = keras_meta.MANN(_encoder(), 5)
    cell = published.network.cell
    assert (cell.slots, cell.slot_size, cell.heads) == (128, 40, 4)


def test_what_is_no_cell_is_refused():
    with refuses(TypeError, "`cell` must be a cell"):
        _mann(lambda: keras.layers.Dense(4))
    learner = _mann()
    x, _ = _tasks()
    with refuses(ValueError, "`support_y` must be class numbers"):
        learner({**x, "support_y": np.zeros([2, 6, WAYS + 1])})


def test_adapting_to_one_task_gives_a_plain_model(tmp_path):
    learner = _mann()
    x, _ = _tasks()
    assert_adapts_to_one_task(learner, x, tmp_path)
