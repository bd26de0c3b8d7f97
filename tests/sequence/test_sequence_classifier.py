"""Networks on sequences whose labels come one item late."""

import itertools
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta.episodes import offset_labels
from keras_meta.sequence import InstanceAccuracy
from keras_meta.sequence import MemoryCell
from keras_meta.sequence import SequenceClassifier
from tests.learners.helpers import crossentropy
from tests.learners.helpers import refuses

pytestmark = pytest.mark.usefixtures("float64")
_WAYS, _ITEMS = 3, 6


def _cell(**options):
    sizes = {"units": 5, "slots": 8, "slot_size": 4, "heads": 2}
    return MemoryCell(**{**sizes, **options})


def _network(cell=None, **options):
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input([2, 1]), keras.layers.Flatten()])
    cell = _cell(**options) if cell is None else cell
    return SequenceClassifier(encoder, cell, _WAYS)


def _sequences(seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permuted([[0, 0, 1, 1, 2, 2]] * 4, axis=1)
    items = rng.normal(size=[4, _ITEMS, 2, 1])
    return {"items": items, "previous_y": offset_labels(y, _WAYS)}, y


def test_a_prediction_knows_only_labels_of_earlier_items():
    network = _network()
    x, y = _sequences()
    before = network(x).numpy()
    for place in (0, 3, _ITEMS - 1):
        other = y.copy()
        other[:, place] = (other[:, place] + 1) % _WAYS
        after = network({**x, "previous_y": offset_labels(other, _WAYS)})
        is_same = np.all(after == before, axis=(0, 2))
        assert is_same.tolist() == [t <= place for t in range(_ITEMS)]


def _copying():
    """A network whose weights are set to repeat the label that it is given."""
    network = _network(controller="dense", units=_WAYS)
    for variable in network.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    size = 2
    kernel = np.zeros(network.cell.controller.kernel.shape)
    kernel[size : size + _WAYS] = np.eye(_WAYS)
    network.cell.controller.kernel.assign(kernel)
    kernel = np.zeros(network.head.kernel.shape)
    kernel[:_WAYS] = np.eye(_WAYS)
    network.head.kernel.assign(kernel)
    return network


def test_a_label_that_is_not_late_gives_itself_away():
    network = _copying()
    x, y = _sequences()
    given = {**x, "previous_y": np.eye(_WAYS)[y]}
    np.testing.assert_array_equal(tf.argmax(network(given), -1), y)
    late = tf.argmax(network(x), -1)[:, 1:]
    np.testing.assert_array_equal(late, y[:, :-1])


def test_ideal_guesses_of_first_instances_reach_the_bound():
    """A guess is the first class that has not come, in all orders."""
    ways = 5
    orders = np.array(list(itertools.permutations(range(ways))))
    guesses = [
        [min(set(range(ways)) - {*order[:t]}) for t in range(ways)]
        for order in orders
    ]
    metric = InstanceAccuracy(1)
    metric.update_state(orders, np.eye(ways)[np.array(guesses)])
    bound = sum(1 / k for k in range(1, ways + 1)) / ways
    assert bound == pytest.approx(137 / 300)
    assert float(metric.result()) == pytest.approx(bound)
    assert len(orders) == math.factorial(ways)


def test_accuracy_is_that_of_each_instance():
    rng = np.random.default_rng(0)
    y = rng.permuted([[0, 0, 0, 1, 1, 2]] * 8, axis=1)
    scores = rng.normal(size=[8, 6, _WAYS])
    weights = rng.uniform(size=[8, 6])
    for instance in (1, 2, 3):
        right, total = 0.0, 0.0
        for i, j in np.ndindex(8, 6):
            if np.sum(y[i, : j + 1] == y[i, j]) == instance:
                right += weights[i, j] * (scores[i, j].argmax() == y[i, j])
                total += weights[i, j]
        metric = InstanceAccuracy(instance)
        # In two batches.
        for part in (slice(0, 3), slice(3, 8)):
            metric.update_state(y[part], scores[part], weights[part])
        assert float(metric.result()) == pytest.approx(right / total)
        other = InstanceAccuracy.from_config(metric.get_config())
        assert (other.instance, other.name) == (
            instance,
            f"instance_{instance}",
        )


@pytest.mark.slow_variants("lstm")
@pytest.mark.parametrize(
    "make_cell",
    [_cell, lambda: keras.layers.LSTMCell(4)],
    ids=["memory", "lstm"],
)
def test_it_trains_and_is_kept_in_a_file(make_cell, tmp_path):
    network = _network(make_cell())
    metrics = [InstanceAccuracy(1), InstanceAccuracy(2)]
    # Which is faster here than to trace the step.
    network.compile("adam", crossentropy(), metrics=metrics, run_eagerly=True)
    x, y = _sequences()
    x, y = {k: v[:2, :3] for k, v in x.items()}, y[:2, :3]
    before = network.get_weights()
    history = network.fit(x, y, verbose=0).history
    assert sorted(history) == ["instance_1", "instance_2", "loss"]
    moved = zip(before, network.get_weights(), strict=True)
    assert all(np.any(a != b) for a, b in moved)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(loaded(x), network(x))


def test_bad_arguments_are_refused():
    network = _network()
    with refuses(TypeError, "`cell` must be a cell"):
        SequenceClassifier(network.encoder, keras.layers.Dense(4), _WAYS)
    unbuilt = keras.Sequential([keras.layers.Dense(2)])
    with refuses(ValueError, "`encoder` must be a built Keras model"):
        SequenceClassifier(unbuilt, _cell(), _WAYS)
    with refuses(ValueError, "`ways` must be .* at least 2"):
        SequenceClassifier(network.encoder, _cell(), 1)
    x, y = _sequences()
    with refuses(ValueError, "`previous_y` must be one-hot .*offset_labels"):
        network({**x, "previous_y": y})
    with refuses(ValueError, "`instance` must be a positive integer"):
        InstanceAccuracy(0)
