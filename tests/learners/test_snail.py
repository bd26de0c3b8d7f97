"""SNAIL, against the whole sequence run once for each query."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

from .helpers import WAYS
from .helpers import assert_adapts_to_one_task
from .helpers import classification
from .helpers import compiled
from .helpers import crossentropy
from .helpers import refuses

pytestmark = pytest.mark.usefixtures("float64")
_SHOTS = 2


def _snail(encoder=None, **options):
    keras.utils.set_random_seed(0)
    if encoder is None:
        layers = [keras.Input([2]), keras.layers.Dense(4, "tanh")]
        encoder = keras.Sequential(layers)
    sizes = {"filters": 3, "attention": [(4, 2), (5, 3)]}
    return keras_meta.SNAIL(encoder, WAYS, _SHOTS, **{**sizes, **options})


def _tasks():
    x, y = classification(tasks=3, shots=_SHOTS)
    return {**x, "query_x": x["query_x"][:, :2]}, y[:, :2]


def test_a_query_is_the_last_item_of_its_sequence():
    """What the queries share is exactly what each would compute."""
    learner = _snail()
    x, _ = _tasks()
    support, queries = (learner.embed(x[k]) for k in ("support_x", "query_x"))
    labels = np.eye(WAYS)[x["support_y"]]
    read = np.concatenate([support, labels], axis=-1)
    found = learner(x)
    for i in range(queries.shape[1]):
        query = queries[:, i : i + 1]
        last = np.concatenate([query, np.zeros([3, 1, WAYS])], axis=-1)
        y = np.concatenate([read, last], axis=1)
        for layer in learner.body:
            y = layer(y)
        expected = learner.head(y)[:, -1]
        np.testing.assert_allclose(found[:, i], expected, rtol=1e-12)


def test_blocks_alternate_and_reach_the_first_example():
    learner = _snail(attention=[(4, 2), (5, 3), (2, 6)])
    kinds = [type(layer).__name__ for layer in learner.body]
    attention, convolution = "CausalAttention", "TemporalConvolution"
    assert kinds == [attention, convolution] * 2 + [attention]
    assert [b.reach for b in learner.body[1::2]] == [8, 8]
    published = keras_meta.SNAIL(learner.encoder, 5, 1)
    sizes = [(b.key_size, b.value_size) for b in published.body[::2]]
    assert sizes == [(64, 32), (256, 128), (512, 256)]
    assert [b.filters for b in published.body[1::2]] == [128, 128]
    # Three dilations in each convolution.
    item = 4 + 5
    assert published.head.kernel.shape == (item + 32 + 384 + 128 + 384 + 256, 5)


def test_queries_do_not_see_each_other():
    learner = _snail()
    x, _ = _tasks()
    other = {**x, "query_x": x["query_x"].copy()}
    other["query_x"][:, 1:] = 9.0
    adapted = learner.adapt_tasks(x)
    one, two = (learner.predict_tasks(adapted, i) for i in (x, other))
    np.testing.assert_array_equal(one[:, 0], two[:, 0])
    assert np.all(one[:, 1:] != two[:, 1:])


def test_support_sets_may_have_another_size():
    learner = _snail()
    x, _ = _tasks()
    support = {k: x[k] for k in ("support_x", "support_y")}
    more = {k: np.concatenate([v, v], axis=1) for k, v in support.items()}
    few = {k: v[:, :1] for k, v in support.items()}
    outputs = [learner({**x, **changed}).numpy() for changed in (few, more)]
    assert all(y.shape == (3, 2, WAYS) for y in outputs)
    assert np.all(outputs[0] != outputs[1])


class _Recorder(keras_meta.SequenceLearner):
    """Keeps the labels that it reads."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.head = keras.layers.Dense(self.ways)
        self.read = []

    def read_support(self, x, classes):
        self.read.append(tf.argmax(classes, -1).numpy())
        return x

    def answer(self, adapted, x):
        return self.head(x)


def _orders_of(seed, steps=2):
    """Returns the labels that training steps read, `[steps, tasks, n]`."""
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential([keras.Input([2]), keras.layers.Dense(4)])
    learner = compiled(
        _Recorder(encoder, WAYS, seed=seed),
        loss=crossentropy(),
        run_eagerly=True,
    )
    x, y = _tasks()
    learner(x)
    for _ in range(steps):
        learner.train_on_batch(x, y)
    called, *read = learner.read
    np.testing.assert_array_equal(called, x["support_y"])
    return np.stack(read), x["support_y"]


def test_training_reads_support_sets_in_orders_of_a_seed():
    read, labels = _orders_of(seed=1)
    np.testing.assert_array_equal(np.sort(read), np.sort([labels] * 2))
    assert len({order.tobytes() for order in read.reshape(6, -1)}) > 3
    again, _ = _orders_of(seed=1, steps=1)
    np.testing.assert_array_equal(again[0], read[0])
    kept, labels = _orders_of(seed=None, steps=1)
    np.testing.assert_array_equal(kept, [labels])


@pytest.mark.slow
def test_gradients_are_central_differences():
    learner = compiled(
        _snail(seed=None), keras.optimizers.SGD(1.0), crossentropy()
    )
    x, y = _tasks()
    variables = learner.trainable_variables
    before = [v.numpy() for v in variables]
    learner.train_on_batch(x, y)
    moves = [b - v.numpy() for b, v in zip(before, variables, strict=True)]
    rng = np.random.default_rng(1)
    ways = [rng.normal(size=b.shape) for b in before]

    def loss(size):
        for v, b, w in zip(variables, before, ways, strict=True):
            v.assign(b + size * w)
        return crossentropy()(y, learner(x)).numpy()

    slope = sum(np.sum(m * w) for m, w in zip(moves, ways, strict=True))
    difference = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert difference == pytest.approx(slope, rel=1e-7)


# What is refused.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filters": 0}, "`filters` must be a positive integer"),
        ({"attention": []}, "`attention` must be .* pairs"),
        ({"attention": [(4, 0)]}, "`attention` must be .* pairs"),
        ({"attention": [(4,)]}, "`attention` must be .* pairs"),
        ({"attention": 4}, "`attention` must be .* pairs"),
        ({"seed": 0.5}, "`seed` must be an integer"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with refuses(ValueError, message):
        _snail(**options)


def test_an_encoder_must_have_a_known_size():
    class Unknown(keras.Model):
        def call(self, x):
            return x

    encoder = Unknown()
    encoder.build([None, 2])
    with refuses(ValueError, "`encoder` must be .* of a known size"):
        _snail(encoder)


def test_inputs_that_do_not_fit_are_refused():
    learner = _snail()
    x, _ = _tasks()
    with refuses(ValueError, "in 0..2.*Task 1 .*`support_y`.*label 3"):
        labels = x["support_y"].copy()
        labels[1, 0] = 3
        learner({**x, "support_y": labels})
    with refuses(ValueError, "`support_y` must be class numbers"):
        learner({**x, "support_y": np.zeros([3, 6, WAYS + 1])})
    with refuses(ValueError, "`support_x` must have at least one support"):
        learner({**x, **{k: x[k][:, :0] for k in ("support_x", "support_y")}})
    with refuses(ValueError, "has no use for their weights"):
        learner({**x, "support_sample_weight": np.ones([3, 6])})


def test_adapting_to_one_task_gives_a_plain_model(tmp_path):
    learner = _snail()
    x, _ = _tasks()
    assert_adapts_to_one_task(learner, x, tmp_path)
