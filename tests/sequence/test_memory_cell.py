"""A cell with an external memory, against a loop over heads and slots."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta.sequence import MemoryCell
from tests.learners.helpers import refuses

pytestmark = pytest.mark.usefixtures("float64")
_ITEMS, _SIZE = 7, 3
_UNITS, _SLOTS, _WIDTH, _HEADS = 5, 6, 4, 2
CONTROLLERS = pytest.mark.parametrize("controller", ["lstm", "dense"])


def _cell(**options):
    keras.utils.set_random_seed(0)
    sizes = {
        "units": _UNITS,
        "slots": _SLOTS,
        "slot_size": _WIDTH,
        "heads": _HEADS,
    }
    cell = MemoryCell(**{**sizes, **options})
    cell.build((None, _SIZE))
    rng = np.random.default_rng(1)
    for variable in cell.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return cell


def _log_strengths(cell):
    (found,) = [w for w in cell.weights if w.name == "log_strengths"]
    return found


def _items(seed=0):
    return np.random.default_rng(seed).normal(size=[2, _ITEMS, _SIZE])


def _initial(cell):
    return [tf.zeros([2, size], tf.float64) for size in cell.state_size]


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _controlled(cell, x, state):
    kernel, *others = (w.numpy() for w in cell.controller.weights)
    if cell.controller_type == "dense":
        return np.tanh(x @ kernel + others[0]), []
    recurrent, bias = others
    h, c = state
    i, f, g, o = np.split(x @ kernel + h @ recurrent + bias, 4)
    c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
    h = _sigmoid(o) * np.tanh(c)
    return h, [h, c]


def _cosine(a, b):
    return a @ b / np.sqrt((a @ a + 1e-3) * (b @ b + 1e-3))


def _loop(cell, x):
    """Returns the outputs for one sequence, and all read weights."""
    kernel, bias = cell.interface.kernel.numpy(), cell.interface.bias.numpy()
    strengths = np.exp(_log_strengths(cell).numpy()[:, 0])
    memory = np.zeros([_SLOTS, _WIDTH])
    reading, usage = np.zeros([_HEADS, _SLOTS]), np.zeros(_SLOTS)
    was_read, state = np.zeros(_HEADS * _WIDTH), [np.zeros(_UNITS)] * 2
    outputs, readings = [], []
    for item in x:
        h, state = _controlled(cell, np.r_[item, was_read], state)
        made = (h @ kernel + bias).reshape(_HEADS, 2 * _WIDTH + 1)
        least = np.argsort(usage, kind="stable")[:_HEADS]
        memory[least] = 0.0
        usage = cell.decay * usage
        for head in range(_HEADS):
            gate = _sigmoid(made[head, -1])
            value = np.tanh(made[head, _WIDTH : 2 * _WIDTH])
            for slot in range(_SLOTS):
                weight = gate * reading[head, slot]
                weight += (1 - gate) * (slot == least[head])
                memory[slot] += weight * value
                usage[slot] += weight
        was_read = []
        for head in range(_HEADS):
            key = np.tanh(made[head, :_WIDTH])
            cosines = [_cosine(key, memory[slot]) for slot in range(_SLOTS)]
            scores = np.exp(strengths[head] * np.array(cosines))
            reading[head] = scores / scores.sum()
            was_read.append(reading[head] @ memory)
            usage = usage + reading[head]
        was_read = np.concatenate(was_read)
        outputs.append(np.r_[h, was_read])
        readings.append(reading.copy())
    return np.stack(outputs), np.stack(readings)


def _read_weights(cell, state):
    return tf.reshape(state[1], [-1, _HEADS, _SLOTS])


@CONTROLLERS
def test_a_cell_computes_what_it_says(controller):
    cell, x = _cell(controller=controller), _items()
    expected = [_loop(cell, sequence) for sequence in x]
    found = keras.layers.RNN(cell, return_sequences=True)(x)
    np.testing.assert_allclose(
        found, [outputs for outputs, _ in expected], rtol=1e-10
    )
    state = _initial(cell)
    for t in range(_ITEMS):
        _, state = cell(x[:, t], state)
        weights = _read_weights(cell, state)
        for i, (_, readings) in enumerate(expected):
            np.testing.assert_allclose(weights[i], readings[t], rtol=1e-10)
        np.testing.assert_allclose(tf.reduce_sum(weights, -1), 1.0, rtol=1e-12)


@CONTROLLERS
def test_the_state_is_all_that_a_cell_keeps(controller):
    cell, x = _cell(controller=controller), _items()
    first, _ = cell(x[:, 1], _initial(cell))
    state = _initial(cell)
    for t in range(3):
        _, state = cell(x[:, t + 2], state)
    kept, _ = cell(x[:, 1], state)
    assert np.all(np.abs(kept - first) > 1e-6)
    emptied = [tf.zeros_like(part) for part in state]
    again, _ = cell(x[:, 1], emptied)
    np.testing.assert_array_equal(again, first)


def test_what_was_written_is_found_again():
    """With gates shut, a value stays in its slot, and its key finds it."""
    cell = _cell(controller="dense", heads=1, units=_WIDTH)
    item, other = np.eye(_SIZE)[:2][:, None]
    body, head = cell.controller, cell.interface
    for variable in cell.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    _log_strengths(cell).assign([[np.log(1e4)]])
    rng = np.random.default_rng(2)
    kernel = np.zeros(body.kernel.shape)
    kernel[:2, :_WIDTH] = rng.normal(size=[2, _WIDTH])
    body.kernel.assign(kernel)
    # The key is the value, so that cosines find it.
    kernel = np.zeros(head.kernel.shape)
    kernel[:_WIDTH, :_WIDTH] = kernel[:_WIDTH, _WIDTH:-1] = np.eye(_WIDTH)
    head.kernel.assign(kernel)
    head.bias.assign(np.r_[np.zeros(2 * _WIDTH), -1e3])
    state = [s[:1] for s in _initial(cell)]
    _, state = cell(item, state)
    written = tf.reshape(state[0], [_SLOTS, _WIDTH])[0]
    assert np.abs(written).min() > 0
    for _ in range(3):
        _, state = cell(other, state)
    output, state = cell(item, state)
    np.testing.assert_allclose(output[0, -_WIDTH:], written, rtol=1e-9)


def test_it_is_made_from_its_config():
    cell = _cell(controller="dense", decay=0.5, strength=2.0)
    config = keras.saving.serialize_keras_object(cell)
    other = keras.saving.deserialize_keras_object(config)
    other.set_weights(cell.get_weights())
    x, state = _items()[:, 0], [tf.ones_like(s) for s in _initial(cell)]
    one, two = cell(x, state), other(x, state)
    np.testing.assert_array_equal(one[0], two[0])
    # Usage depends on the decay.
    np.testing.assert_array_equal(one[1][2], two[1][2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 7}, "`slots` must be at least `heads`"),
        ({"units": 0}, "`units` must be"),
        ({"controller": "gru"}, "`controller` must be"),
        ({"decay": 1.0}, "`decay` must be"),
        ({"strength": 0.0}, "`strength` must be"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with refuses(ValueError, message):
        _cell(**options)
