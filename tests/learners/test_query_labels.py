"""Bad labels and weights of query sets, and labels that are ignored."""

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
from .helpers import maml
from .helpers import mlp
from .helpers import regression


def _weighted(shape):
    x, y = regression(1)
    return dataset((x, y, np.ones(shape, "float32")))


@pytest.mark.parametrize("shape", [[1, 3], [1, 3, 5], [1, 2, 4]])
@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_weights_of_other_than_query_examples(shape, method):
    learner = compiled(keras_meta.MAML(mlp()))
    with pytest.raises(ValueError, match="`sample_weight` must have the shape"):
        getattr(learner, method)(_weighted(shape), verbose=0)


def test_class_weights_are_refused():
    x, y = classification()
    learner = compiled(keras_meta.MAML(mlp(outputs=WAYS)), loss=crossentropy())
    with pytest.raises(ValueError, match="class_weight="):
        learner.fit(
            x, y, batch_size=len(y), class_weight={0: 1, 1: 5, 2: 1}, verbose=0
        )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_no_query_labels(jit_compile):
    learner = compiled(keras_meta.MAML(mlp()), jit_compile=jit_compile)
    x, _ = regression(1)
    with pytest.raises(ValueError, match="query sets need labels"):
        learner.fit(dataset((x,)), verbose=0)


@pytest.mark.slow_variants("shape0-fit", "shape1-evaluate", "shape1-fit")
@pytest.mark.parametrize("method", ["fit", "evaluate"])
@pytest.mark.parametrize("shape", [[2, 3, 1], [6, 1, 1]])
def test_as_many_labels_in_another_shape(shape, method):
    """Losses see the queries of all tasks in one row, which hides it."""
    x, _ = regression(tasks=3, queries=2)
    specs = {key: tf.TensorSpec([None, None, None]) for key in x}
    data = tf.data.Dataset.from_generator(
        lambda: iter([(x, np.zeros(shape))]),
        output_signature=(specs, tf.TensorSpec([None, None, 1])),
    )
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match="`query_x` and `query_y` must have the same number of tasks",
    ):
        getattr(maml(), method)(data, verbose=0)


@pytest.mark.slow
@pytest.mark.parametrize("ignored", [-1, 255])
def test_an_ignored_label_may_be_outside_of_the_ways(ignored):
    x, y = classification(1)
    x["support_y"][0, 0, 1] = ignored
    learner = compiled(
        keras_meta.MAML(mlp(outputs=WAYS)),
        loss=keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, ignore_class=ignored
        ),
    )
    history = learner.fit(dataset((x, y)), verbose=0)
    assert np.isfinite(history.history["loss"]).all()
