"""Bad labels, NaN and divergence stop a run and leave the weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta

from .helpers import assert_same_weights
from .helpers import classification
from .helpers import compiled
from .helpers import crossentropy
from .helpers import have_moved
from .helpers import maml
from .helpers import mlp
from .helpers import normalized_mlp
from .helpers import refuses
from .helpers import regression
from .helpers import weights


def _classifier(jit_compile=False, optimizer=None):
    model = mlp(3)
    return compiled(
        keras_meta.MAML(model, 0.1),
        optimizer or keras.optimizers.Adam(0.1),
        crossentropy(),
        jit_compile,
    )


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("label", [3, -1])
def test_labels_outside_of_the_ways_stop_fit(label, jit_compile):
    learner = _classifier(jit_compile, keras.optimizers.SGD(0.1))
    x, y = classification()
    x["support_y"][1, 2] = label
    before = weights(learner)
    with refuses(
        ValueError, r"Labels must be in 0..2.*3 outputs. Task 1 .*Relabel"
    ):
        learner.fit(x, y, batch_size=2, verbose=0)
    assert_same_weights(learner, before)


@pytest.mark.parametrize("method", ["evaluate", "call", "adapt"])
def test_labels_outside_of_the_ways_stop(method):
    learner = _classifier()
    x, y = classification()
    x["support_y"][1, 2] = 3
    task = 0 if method == "adapt" else 1
    with refuses(ValueError, f"Labels must be in 0..2.*Task {task} "):
        if method == "evaluate":
            learner.evaluate(x, y, batch_size=2, verbose=0)
        elif method == "adapt":
            learner.adapt(x["support_x"][1], x["support_y"][1])
        else:
            learner(x)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_labels_outside_of_the_ways_stop_predict(jit_compile):
    learner = _classifier(jit_compile)
    x, _ = classification()
    x["support_y"][1, 2] = 3
    with refuses(ValueError, "Labels must be in 0..2.*Task 1 "):
        learner.predict(x, batch_size=2, verbose=0)


@pytest.mark.parametrize("labels", ["support_y", "query_y"])
def test_good_labels_train_after_a_failure(labels):
    learner = _classifier()
    x, y = classification()
    wrong, wrong_y = classification()
    {**wrong, "query_y": wrong_y}[labels][0, 0] = 7
    # Keras itself refuses query labels, without XLA by TensorFlow's error.
    errors = (ValueError, FloatingPointError, tf.errors.InvalidArgumentError)
    with pytest.raises(errors):
        learner.fit(wrong, wrong_y, batch_size=2, verbose=0)
    history = learner.fit(x, y, batch_size=2, epochs=5, verbose=0)
    losses = history.history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("key", ["support_x", "support_y"])
def test_nan_in_a_support_set_stops_fit_and_leaves_the_weights(
    key, jit_compile
):
    learner = compiled(keras_meta.MetaSGD(mlp()), jit_compile=jit_compile)
    x, y = regression()
    x[key][2, 1, 0] = np.nan
    before = weights(learner)
    with refuses(
        FloatingPointError,
        "not finite at inner step 0 of task 2 .*data or the model.*contain",
    ):
        learner.fit(x, y, batch_size=3, epochs=3, verbose=0)
    assert_same_weights(learner, before)
    assert learner.optimizer.iterations == 0


def test_nan_in_the_query_labels_stops_fit_and_leaves_the_weights():
    learner = maml()
    x, y = regression()
    y[1, 0] = np.nan
    before = weights(learner)
    with refuses(FloatingPointError, "loss of the query sets.*contain NaN"):
        learner.fit(x, y, batch_size=3, verbose=0)
    assert_same_weights(learner, before)


@pytest.mark.parametrize("algorithm", [keras_meta.MAML, keras_meta.Reptile])
@pytest.mark.parametrize("key", ["support_x", "query_x"])
def test_nan_leaves_moving_averages_finite(key, algorithm):
    learner = compiled(
        algorithm(normalized_mlp(), 0.1, batch_statistics="running")
    )
    x, y = regression()
    x[key][2, 1, 0] = np.nan
    with pytest.raises(FloatingPointError):
        learner.fit(x, y, batch_size=3, verbose=0)
    assert all(np.all(np.isfinite(w)) for w in weights(learner))


def test_nan_in_a_support_set_stops_reptile():
    learner = compiled(keras_meta.Reptile(mlp(), steps=2))
    x, y = regression()
    x["support_x"][0, 0, 0] = np.nan
    before = weights(learner)
    with refuses(FloatingPointError, "inner step 0 of task 0 "):
        learner.fit(x, y, batch_size=3, verbose=0)
    assert_same_weights(learner, before)


@pytest.mark.parametrize(
    "rule",
    [
        keras_meta.GradientDescent(0.1),
        keras_meta.Momentum(0.1),
        keras_meta.Adam(0.1),
    ],
    ids=lambda rule: type(rule).__name__,
)
def test_a_gradient_that_is_not_finite_is_found(rule):
    """Infinity saturates tanh: the loss is finite, its gradient is NaN."""
    learner = compiled(keras_meta.Reptile(mlp(), rule, steps=2))
    x, y = regression()
    x["support_x"][1, 0, 0] = np.inf
    before = weights(learner)
    with refuses(FloatingPointError, "inner step 1 of task 1 "):
        learner.fit(x, y, batch_size=3, verbose=0)
    assert_same_weights(learner, before)


@pytest.mark.parametrize("method", ["predict", "evaluate"])
def test_a_failure_outside_of_training_does_not_stop_a_later_fit(method):
    learner = maml()
    x, y = regression()
    wrong, _ = regression()
    wrong["support_x"][0, 0, 0] = np.nan
    arguments = (wrong, y) if method == "evaluate" else (wrong,)
    try:
        getattr(learner, method)(*arguments, verbose=0)
    except FloatingPointError:
        pass
    losses = learner.fit(x, y, batch_size=3, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses))


@pytest.mark.parametrize("algorithm", [keras_meta.MAML, keras_meta.Reptile])
def test_a_diverging_inner_loop_says_so(algorithm):
    model = mlp(activation="relu")
    learner = compiled(algorithm(model, 1e8, 5))
    before = weights(learner)
    x, y = regression()
    with refuses(
        FloatingPointError,
        "not finite at inner step [1-9].*diverges: lower.*learning rate",
    ):
        learner.fit(x, y, batch_size=3, verbose=0)
    assert_same_weights(learner, before)


def test_a_failure_inside_of_several_steps_per_execution_is_found():
    learner = compiled(keras_meta.MAML(mlp(), 0.1), steps_per_execution=3)
    x, y = regression(tasks=9)
    x["support_x"][4, 0, 0] = np.nan
    with refuses(FloatingPointError, "inner step 0 of task 1 "):
        learner.fit(x, y, batch_size=3, shuffle=False, verbose=0)
    assert all(np.all(np.isfinite(w)) for w in weights(learner))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_meta_gradient_that_is_not_finite_leaves_the_weights(jit_compile):
    """Infinity saturates tanh: the loss is finite, its gradient is NaN."""
    learner = compiled(keras_meta.MAML(mlp(), 0.1), jit_compile=jit_compile)
    x, y = regression()
    x["query_x"][1, 0, 0] = np.inf
    before = weights(learner)
    with refuses(
        FloatingPointError,
        "or its gradient, is not finite.*step was undone: weights",
    ):
        learner.fit(x, y, batch_size=3, verbose=0)
    assert_same_weights(learner, before)


def test_a_meta_gradient_whose_norm_overflows_leaves_the_weights():
    learner = compiled(
        keras_meta.MAML(mlp(), 0.1, inner_loss="mse"),
        keras.optimizers.SGD(0.1, global_clipnorm=1.0),
        lambda y_true, y_pred: keras.ops.mean(y_true * y_pred),
    )
    x, y = regression()
    y[1, 0] = 1e25
    before = weights(learner)
    with refuses(FloatingPointError, "or its gradient, is not finite"):
        learner.fit(x, y, batch_size=3, verbose=0)
    assert_same_weights(learner, before)


def test_a_trajectory_may_diverge():
    learner = compiled(keras_meta.MAML(mlp(activation=None), 0.1))
    x, y = regression()
    far = {k: 1e3 * v for k, v in x.items()}
    points = learner.trajectory(far, steps=30)
    assert np.all(np.isfinite(points[0]))
    assert not np.all(np.isfinite(points[-1]))
    losses = learner.fit(x, y, batch_size=3, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses))


def test_a_trajectory_refuses_labels_outside_of_the_ways():
    x, _ = classification()
    x["support_y"][1, 2] = 3
    with refuses(ValueError, "Labels must be in 0..2.*Task 1 "):
        _classifier().trajectory(x)


def test_a_loop_of_ones_own_goes_on_after_a_failure():
    learner = keras_meta.MAML(
        normalized_mlp(), 0.1, inner_loss="mse", batch_statistics="running"
    )
    step = tf.function(lambda x: learner(x, training=True), autograph=False)
    x, y = regression()
    wrong, _ = regression()
    wrong["support_x"][0, 0, 0] = np.nan
    before = weights(learner)
    step(wrong)
    assert_same_weights(learner, before)
    step(x)
    assert have_moved(before, weights(learner))
    # Nor is `fit` blamed for it.
    compiled(learner).fit(x, y, batch_size=3, verbose=0)
