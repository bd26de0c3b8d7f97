"""Layers that do not adapt are called once for all steps, to no effect."""

import contextlib
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keras_meta
from keras_meta.batching.shared_calls import SharedCalls
from keras_meta.batching.task_batched import TaskBatched
from keras_meta.inner.few_shot import FewShotProblem

from .helpers import WAYS
from .helpers import classification
from .helpers import compiled
from .helpers import convolutional_net
from .helpers import crossentropy


def dropout_net():
    return keras.Sequential(
        [
            keras.Input([6, 6, 1]),
            layers.Flatten(),
            layers.Dense(5, "tanh"),
            layers.Dropout(0.5, seed=3),
            layers.Dense(4, "tanh"),
            layers.Dense(WAYS),
        ]
    )


def nested_net():
    """A body that is a model itself, used twice, and two ways to the head."""
    body = keras.Sequential(
        [keras.Input([6, 6, 1]), layers.Flatten(), layers.Dense(4, "tanh")]
    )
    inputs = keras.Input([6, 6, 1])
    both = layers.Concatenate()([body(inputs), body(-inputs)])
    x = layers.Dense(3, "tanh", activity_regularizer="l2")(both)
    return keras.Model(inputs, layers.Dense(WAYS)(layers.Add()([x, 2 * x])))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.body = layers.Dense(4, "tanh")
        self.last = layers.Dense(WAYS)
        self.build([None, 6, 6, 1])

    def build(self, shape):
        self.body.build([None, 36])
        self.last.build([None, 4])
        self.built = True

    def call(self, x):
        x = tf.reshape(x, [-1, 36])
        return self.last(tf.sin(self.body(x)))


class Count(layers.Layer):
    """Counts its calls in training."""

    def build(self, shape):
        self.count = self.add_weight(
            shape=(), initializer="zeros", trainable=False
        )

    def call(self, x, training=False):
        if training:
            self.count.assign(self.count + 1)
        return x


class Reader(layers.Layer):
    """Adds another layer's count, which it leaves as it is."""

    def __init__(self, counter):
        super().__init__()
        self.counter = counter

    def call(self, x):
        return x + keras.ops.cast(self.counter.count, x.dtype)


def counting_net():
    counter = Count()
    inputs = keras.Input([6, 6, 1])
    counted = counter(inputs)
    x = Reader(counter)(layers.Flatten()(inputs))
    x = layers.Dense(4, "tanh")(x)
    x = layers.Add()([x, layers.Dense(4)(layers.Flatten()(counted))])
    return keras.Model(inputs, layers.Dense(WAYS)(x))


NETS = {
    "counting": counting_net,
    "convolution": convolutional_net,
    "dropout": dropout_net,
    "nested": nested_net,
    "subclassed": Subclassed,
}


def move(make, monkeypatch, share, statistics="batch", **options):
    """Returns what one meta-training step adds to the weights."""
    with monkeypatch.context() as patch:
        if not share:
            patch.setattr(FewShotProblem, "prepared", lambda self, *_: self)
        keras.utils.set_random_seed(0)
        jit_compile = options.pop("jit_compile", False)
        run_eagerly = options.pop("run_eagerly", False)
        learner = compiled(
            keras_meta.MAML(
                make(),
                0.1,
                adapt=lambda v: "head" in v.path or v.shape[-1] == WAYS,
                batch_statistics=statistics,
                **options,
            ),
            keras.optimizers.SGD(1.0),
            crossentropy(),
            jit_compile=jit_compile,
            run_eagerly=run_eagerly,
        )
        before = [w.numpy() for w in learner.weights]
        learner.train_on_batch(*classification(shape=(6, 6, 1)))
        return [
            after.numpy() - w
            for after, w in zip(learner.weights, before, strict=True)
        ]


def assert_same_moves(make, monkeypatch, **options):
    moves = [move(make, monkeypatch, share, **options) for share in (0, 1)]
    for own, shared in zip(*moves, strict=True):
        np.testing.assert_allclose(shared, own, rtol=1e-8, atol=1e-12)


# Each once by default, all pairs with the slow ones.
QUICK = [
    ({"jit_compile": True}, "batch"),
    ({"run_eagerly": True}, "running"),
    ({"meta_gradient": "first_order"}, "running"),
    ({"meta_gradient": keras_meta.Unrolled("sqrt")}, "batch"),
    ({"step_weights": "uniform"}, "support"),
]
ROUTES_AND_STATISTICS = [
    pytest.param(
        options,
        statistics,
        marks=[] if (options, statistics) in QUICK else pytest.mark.slow,
    )
    for options, _ in QUICK
    for statistics in ("batch", "support", "running")
]


@pytest.mark.slow_variants(
    "convolution-12",
    "counting-12",
    "counting-3",
    "dropout-12",
    "dropout-3",
    "nested-12",
    "nested-3",
    "subclassed-12",
    "subclassed-3",
)
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("steps", [3, 12])
@pytest.mark.parametrize("net", NETS)
def test_the_step_is_the_same(net, steps, monkeypatch):
    assert_same_moves(NETS[net], monkeypatch, steps=steps)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("options", "statistics"),
    ROUTES_AND_STATISTICS,
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)
def test_every_route_and_statistics(options, statistics, monkeypatch):
    assert_same_moves(
        convolutional_net,
        monkeypatch,
        steps=3,
        statistics=statistics,
        **options,
    )


def counted(original, counts):
    """Returns a method `call` that counts its calls by the layer's name."""

    def call(self, *args, **kwargs):
        counts[self.name] = counts.get(self.name, 0) + 1
        return original(self, *args, **kwargs)

    return call


def calls(make, adapted, times=3, training=False):
    """Returns how often a model's layers computed in calls that share."""
    model = make()
    counts = {}
    batched = TaskBatched(model, [v for v in model.variables if adapted(v)])
    weights = [tf.stack([v.value, 2 * v]) for v in batched.adapted]
    x = tf.ones([2, 5, *model.input_shape[1:]])
    batched(weights, batched.initial_state(), x)
    shared = SharedCalls(x)
    state = batched.initial_state()
    with contextlib.ExitStack() as stack:
        for kind in set(map(type, batched.layers)):
            method = counted(kind.call, counts)
            stack.enter_context(mock.patch.object(kind, "call", method))
        for _ in range(times):
            batched(weights, state, x, training=training, shared=shared)
    return counts


def is_last(variable):
    return variable.shape[-1] == WAYS


def test_the_body_computes_once():
    counts = calls(convolutional_net, is_last)
    # The last layer computes by its rule, which is not its own call.
    model_itself = [name for name, n in counts.items() if n == 3]
    assert len(model_itself) == 1
    assert {n for name, n in counts.items() if name != model_itself[0]} == {1}


def test_what_is_random_computes_every_time():
    counts = calls(dropout_net, is_last, training=True)
    by_kind = {name.rstrip("_0123456789"): n for name, n in counts.items()}
    assert by_kind["flatten"] == 1
    assert by_kind["dropout"] == 3
    assert counts[max(n for n in counts if n.startswith("dense"))] == 3


def test_other_inputs_share_nothing():
    model = convolutional_net()
    batched = TaskBatched(model, model.layers[-1].trainable_variables)
    weights = [tf.stack([v.value, 2 * v]) for v in batched.adapted]
    inputs = [tf.random.normal([2, 5, 6, 6, 1], seed=i) for i in (1, 2)]
    shared = SharedCalls(inputs[0])
    for x in (inputs[0], inputs[1], inputs[0]):
        expected = batched(weights, batched.initial_state(), x)
        actual = batched(weights, batched.initial_state(), x, shared=shared)
        np.testing.assert_array_equal(actual.outputs, expected.outputs)
        for layer, pairs in expected.statistics.items():
            np.testing.assert_array_equal(actual.statistics[layer], pairs)


def test_all_layers_adapt_and_nothing_is_shared():
    model = convolutional_net()
    assert not TaskBatched(model, model.trainable_variables).has_common_layers
    last = model.layers[-1].trainable_variables
    assert TaskBatched(model, last).has_common_layers
