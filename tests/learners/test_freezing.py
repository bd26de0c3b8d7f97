"""Layers that are frozen or unfrozen after the learner was made."""

import keras
import numpy as np
import pytest

import keras_meta

from .helpers import compiled
from .helpers import dataset
from .helpers import mlp
from .helpers import normalized_mlp
from .helpers import regression
from .helpers import weights


@pytest.mark.slow
@pytest.mark.parametrize("network", [mlp, normalized_mlp])
def test_a_frozen_learner_predicts_as_before(network):
    learner = compiled(keras_meta.MAML(network(), 0.1))
    x, _ = regression()
    expected = learner.predict(x, verbose=0)
    if network is mlp:
        learner.trainable = False
    else:
        learner.model.layers[0].trainable = False
    np.testing.assert_allclose(learner(x), expected, atol=1e-6)


@pytest.mark.slow
def test_frozen_layers_adapt_and_are_not_learned():
    learner = keras_meta.MAML(mlp(), 0.1)
    body = learner.model.get_layer("body")
    body.trainable = False
    compiled(learner)
    before = weights(body)
    head = weights(learner.model.get_layer("head"))
    learner.fit(dataset(regression(3)), verbose=0)
    for old, new in zip(before, weights(body), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not np.array_equal(
        head[0], learner.model.get_layer("head").kernel.numpy()
    )


def test_unfrozen_layers_need_a_new_learner():
    model = mlp()
    model.get_layer("body").trainable = False
    learner = compiled(keras_meta.MAML(model, 0.1))
    model.get_layer("body").trainable = True
    with pytest.raises(ValueError, match="frozen or unfrozen.*Make a new"):
        learner.predict(regression()[0], verbose=0)


class OwnStep(keras_meta.MAML):
    def train_step(self, data):
        self.seen = keras.utils.unpack_x_y_sample_weight(data)[1].shape
        return super().train_step(data)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_subclass_may_extend_the_train_step(jit_compile):
    def fit(kind):
        keras.utils.set_random_seed(0)
        learner = compiled(kind(mlp(), 0.1), jit_compile=jit_compile)
        learner.fit(dataset(regression(3)), verbose=0)
        return learner

    extended = fit(OwnStep)
    assert extended.seen == (3, 4, 1)
    for one, other in zip(
        weights(extended), weights(fit(keras_meta.MAML)), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)
