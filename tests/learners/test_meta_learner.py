"""A learner without an inner loop, as a user would write it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

from .helpers import WAYS
from .helpers import classification
from .helpers import compiled
from .helpers import crossentropy
from .helpers import dataset
from .helpers import refuses


@keras.saving.register_keras_serializable("keras_meta_tests")
class Prototypes(keras_meta.MetaLearner):
    """Classes are the means of embedded support examples."""

    def __init__(self, encoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.built = True

    def embed(self, x, training):
        flat = tf.reshape(x, [-1, *x.shape[2:]])
        y = self.encoder(flat, training=training)
        return tf.reshape(y, [tf.shape(x)[0], -1, y.shape[-1]])

    def adapt_tasks(self, inputs, training=False):
        classes = tf.one_hot(inputs["support_y"], WAYS)
        x = self.embed(inputs["support_x"], training)
        sums = tf.matmul(classes, x, transpose_a=True)
        return sums / tf.reduce_sum(classes, 1)[..., tf.newaxis]

    def predict_tasks(self, adapted, inputs, training=False):
        x = self.embed(inputs["query_x"], training)
        gaps = x[:, :, tf.newaxis] - adapted[:, tf.newaxis]
        return -tf.reduce_sum(tf.square(gaps), axis=-1)

    def get_config(self):
        return {"encoder": keras.saving.serialize_keras_object(self.encoder)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["encoder"]))


def _learner(**options):
    keras.utils.set_random_seed(0)
    encoder = keras.Sequential(
        [keras.Input([2]), keras.layers.Dense(4, "tanh")]
    )
    return compiled(
        Prototypes(encoder),
        loss=crossentropy(),
        metrics=["accuracy"],
        **options,
    )


def _by_hand(learner, x, y):
    """Returns logits and the loss of the queries, by plain NumPy."""
    kernel, bias = (w.numpy() for w in learner.encoder.weights)
    embed = lambda x: np.tanh(x @ kernel + bias)  # noqa: E731
    support, query = embed(x["support_x"]), embed(x["query_x"])
    logits = np.zeros([*y.shape, WAYS])
    for task in range(len(y)):
        labels = x["support_y"][task]
        means = [support[task, labels == k].mean(0) for k in range(WAYS)]
        gaps = query[task][:, None] - np.stack(means)
        logits[task] = -np.sum(gaps**2, axis=-1)
    shifted = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = -np.take_along_axis(shifted, y[..., None], -1).mean()
    return logits, loss


def test_it_computes_what_it_says():
    learner = _learner()
    x, y = classification()
    logits, loss = _by_hand(learner, x, y)
    np.testing.assert_allclose(learner(x), logits, rtol=1e-4, atol=1e-5)
    results = learner.evaluate(dataset((x, y)).batch(2), verbose=0)
    accuracy = np.mean(logits.argmax(-1) == y)
    np.testing.assert_allclose(results, [loss, accuracy], rtol=1e-5)


@pytest.mark.parametrize(
    "jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_it_trains(jit_compile):
    learner = _learner(jit_compile=jit_compile)
    x, y = classification()
    before = _by_hand(learner, x, y)[1]
    history = learner.fit(x, y, batch_size=2, epochs=5, verbose=0).history
    assert history["loss"][0] == pytest.approx(before, rel=1e-5)
    assert _by_hand(learner, x, y)[1] < before


def test_it_is_measured_task_by_task():
    learner = _learner()
    x, y = classification(tasks=4)
    found = keras_meta.evaluate_tasks(learner, dataset((x, y)).batch(2), 4)
    losses = [
        _by_hand(learner, {k: v[i : i + 1] for k, v in x.items()}, y[i : i + 1])
        for i in range(4)
    ]
    expected = np.mean([loss for _, loss in losses])
    assert found["loss"].mean == pytest.approx(expected, rel=1e-4)
    with refuses(ValueError, "inner loop"):
        keras_meta.evaluate_tasks(learner, dataset((x, y)).batch(2), 4, steps=3)


@pytest.mark.slow
def test_it_continues_from_a_file(tmp_path):
    learner = _learner()
    x, y = classification()
    learner.fit(x, y, batch_size=2, verbose=0)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.saving.load_model(tmp_path / "learner.keras")
    np.testing.assert_array_equal(loaded(x), learner(x))
    histories = [
        model.fit(x, y, batch_size=2, verbose=0).history
        for model in (learner, loaded)
    ]
    assert histories[0] == histories[1]


def test_it_is_served(tmp_path):
    learner = _learner()
    with refuses(ValueError, "Prototypes are not known.*input_signature"):
        learner.export(tmp_path / "served")
    signature = {
        "support_x": tf.TensorSpec([None, None, 2]),
        "support_y": tf.TensorSpec([None, None], tf.int32),
        "query_x": tf.TensorSpec([None, None, 2]),
    }
    learner.export(
        tmp_path / "served", verbose=False, input_signature=signature
    )
    served = tf.saved_model.load(tmp_path / "served")
    x, _ = classification(tasks=3)
    np.testing.assert_allclose(served.serve(x), learner(x), rtol=1e-5)


def test_what_is_not_finite_stops_it_and_changes_nothing():
    learner = _learner()
    x, y = classification()
    x["query_x"][1, 0] = np.nan
    before = [w.numpy() for w in learner.weights]
    with refuses(FloatingPointError, "task 1 in the batch.*undone"):
        learner.train_on_batch(x, y)
    for a, b in zip(before, learner.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_missing_is_named():
    x, _ = classification()
    with refuses(ValueError, "Missing: .'query_x'."):
        _learner()({k: v for k, v in x.items() if k != "query_x"})
    with refuses(NotImplementedError, "must implement `adapt_tasks`"):
        keras_meta.MetaLearner()(x)
