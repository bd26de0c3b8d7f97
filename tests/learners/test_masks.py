"""What a model masks counts neither in the inner nor in the outer loss."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

from .helpers import batch
from .helpers import compiled

pytestmark = pytest.mark.usefixtures("float64")

_TASKS, _N, _LENGTH, _TOKENS, _TAGS = 4, 3, 5, 7, 3


def _tagger():
    """Predicts a tag for each token of a sequence; token 0 is padding."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input([_LENGTH], dtype="int32"),
            keras.layers.Embedding(_TOKENS, 4, mask_zero=True),
            keras.layers.Dense(_TAGS),
        ]
    )


def _data():
    rng = np.random.default_rng(0)

    def tokens():
        x = rng.integers(1, _TOKENS, [_TASKS, _N, _LENGTH], dtype="int32")
        lengths = rng.integers(1, _LENGTH + 1, [_TASKS, _N, 1])
        return np.where(np.arange(_LENGTH) < lengths, x, 0).astype("int32")

    def tags():
        shape = [_TASKS, _N, _LENGTH]
        return rng.integers(0, _TAGS, shape, dtype="int32")

    x = {"support_x": tokens(), "support_y": tags(), "query_x": tokens()}
    return x, tags()


def _loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _by_hand(model, data, rate):
    """One step on each task alone by Keras's own masked loss."""
    losses = []
    variables = model.trainable_variables
    values = [v.numpy() for v in variables]
    for i in range(_TASKS):
        x, query_y = batch(data, i)
        with tf.GradientTape() as tape:
            loss = _loss()(x["support_y"], model(x["support_x"]))
        gradients = tape.gradient(loss, variables)
        for v, g in zip(variables, gradients, strict=True):
            v.assign(v - rate * tf.convert_to_tensor(g))
        losses.append(_loss()(query_y, model(x["query_x"])))
        for v, value in zip(variables, values, strict=True):
            v.assign(value)
    return [float(x) for x in losses]


@pytest.mark.slow_variants("True")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_masked_sequences(jit_compile):
    x, y = _data()
    model = _tagger()
    expected = _by_hand(model, (x, y), 0.5)
    learner = compiled(
        keras_meta.MAML(model, 0.5), loss=_loss(), jit_compile=jit_compile
    )
    for i, loss in enumerate(expected):
        one = {k: v[i : i + 1] for k, v in x.items()}
        got = learner.evaluate(one, y[i : i + 1], verbose=0)
        np.testing.assert_allclose(got, loss, rtol=1e-6)
    # A masked mean over all tasks at once, as Keras has it.
    history = learner.fit(x, y, batch_size=_TASKS, verbose=0)
    kept = [(q != 0).sum() for q in x["query_x"]]
    mean = np.average(expected, weights=kept)
    np.testing.assert_allclose(history.history["loss"][0], mean, rtol=1e-6)


@pytest.mark.slow
def test_multi_step_loss_counts_the_same():
    x, y = _data()

    def loss(**kwargs):
        learner = compiled(
            keras_meta.MAML(_tagger(), 0.5, **kwargs), loss=_loss()
        )
        return learner.fit(x, y, batch_size=_TASKS, verbose=0).history["loss"]

    np.testing.assert_allclose(loss(step_weights=[1.0]), loss(), rtol=1e-12)


@keras.saving.register_keras_serializable("tests")
class _ScaledMean(keras.layers.Layer):
    """A layer without a rule that uses the mask of its input."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1],), initializer="normal")
        self.pool = keras.layers.GlobalAveragePooling1D()
        self.supports_masking = True

    def call(self, x):
        return self.pool(x) * self.w


def test_layers_called_once_per_task_see_the_mask():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input([_LENGTH], dtype="int32"),
            keras.layers.Embedding(_TOKENS, 4, mask_zero=True),
            _ScaledMean(),
        ]
    )
    x, _ = _data()
    learner = compiled(keras_meta.MAML(model, 0.5, evaluation_steps=0))
    x["support_y"] = np.zeros([_TASKS, _N, 4])
    expected = [model(task) for task in x["query_x"]]
    actual = learner.predict(x, batch_size=_TASKS, verbose=0)
    np.testing.assert_allclose(actual, expected, atol=1e-12)
