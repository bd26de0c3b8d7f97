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
from .helpers import dataset
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


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("label", [3, -1])
def test_labels_outside_of_the_ways_stop_fit(label, jit_compile):
    learner = _classifier(jit_compile, keras.optimizers.SGD(0.1))
    x, y = classification()
    x["support_y"][1, 2] = label
    before = weights(learner)
    with refuses(
        ValueError, r"Labels must be in 0..2.*3 classes apart. Task 1 .*Relabel"
    ):
        learner.fit(x, y, batch_size=2, verbose=0)
    assert_same_weights(learner, before)


@pytest.mark.slow_variants("evaluate")
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


@pytest.mark.slow_variants("True")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_labels_outside_of_the_ways_stop_predict(jit_compile):
    learner = _classifier(jit_compile)
    x, _ = classification()
    x["support_y"][1, 2] = 3
    with refuses(ValueError, "Labels must be in 0..2.*Task 1 "):
        learner.predict(x, batch_size=2, verbose=0)


@pytest.mark.slow
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


@pytest.mark.slow
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
        "not finite at inner step 0 of task 2 .*`support_x` or `support_y` "
        "contains.*or the model's weights",
    ):
        learner.fit(x, y, batch_size=3, epochs=3, verbose=0)
    assert_same_weights(learner, before)
    assert learner.optimizer.iterations == 0


@pytest.mark.slow
def test_nan_in_the_query_labels_stops_fit_and_leaves_the_weights():
    learner = maml()
    x, y = regression()
    y[1, 0] = np.nan
    before = weights(learner)
    with refuses(
        FloatingPointError,
        "loss of the query sets.*`query_x` or `query_y` contains NaN",
    ):
        learner.fit(x, y, batch_size=3, verbose=0)
    assert_same_weights(learner, before)


@pytest.mark.slow
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


@pytest.mark.slow
def test_nan_in_a_support_set_stops_reptile():
    learner = compiled(keras_meta.Reptile(mlp(), steps=2))
    x, y = regression()
    x["support_x"][0, 0, 0] = np.nan
    before = weights(learner)
    with refuses(FloatingPointError, "inner step 0 of task 0 "):
        learner.fit(x, y, batch_size=3, verbose=0)
    assert_same_weights(learner, before)


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_failure_inside_of_several_steps_per_execution_is_found():
    learner = compiled(keras_meta.MAML(mlp(), 0.1), steps_per_execution=3)
    x, y = regression(tasks=9)
    x["support_x"][4, 0, 0] = np.nan
    with refuses(FloatingPointError, "inner step 0 of task 1 "):
        learner.fit(x, y, batch_size=3, shuffle=False, verbose=0)
    assert all(np.all(np.isfinite(w)) for w in weights(learner))


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow_variants("softmax", "None")
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_a_graph_of_ones_own_refuses_labels(activation):
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=activation is None
    )
    model = keras.Sequential(
        [keras.Input([2]), keras.layers.Dense(3, activation)]
    )
    learner = keras_meta.MAML(model, inner_loss=loss)
    x, y = classification()
    expected = learner(x)
    plain = tf.function(learner, autograph=False)
    np.testing.assert_allclose(plain(x), expected, rtol=1e-5)
    wrong, _ = classification()
    wrong["support_y"][1, 2] = 3
    with refuses(tf.errors.InvalidArgumentError, "Labels must be in 0..2.*"):
        plain(wrong)
    # XLA drops assertions.
    outer_loss = tf.function(
        lambda x: loss(y, learner(x)), autograph=False, jit_compile=True
    )
    assert np.isfinite(outer_loss(x))
    assert np.isnan(outer_loss(wrong))


@pytest.mark.slow
def test_a_step_of_ones_own_is_not_said_to_be_undone():
    class OwnStep(keras_meta.MAML):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x, y, self(x, training=True))
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            return {"loss": loss}

    learner = compiled(OwnStep(mlp(), 0.1))
    x, y = regression()
    x["support_x"][0, 0, 0] = np.nan
    with pytest.raises(FloatingPointError, match="task 0") as error:
        learner.fit(x, y, batch_size=3, verbose=0)
    assert "undone" not in str(error.value)
    assert not np.all(np.isfinite(weights(learner)[0]))


_BAD_LABELS = [
    np.int64(2**32),
    np.uint64(2**63 + 1),
    np.float32(0.5),
    np.float32(2.9),
    np.float32(np.nan),
    np.int32(-1),
]


def test_labels_are_compared_before_they_are_cast():
    """A cast to int32 would make class 0 or 2 of most of them."""
    learner, x = _classifier(), np.ones([1, 2], "float32")
    for label in _BAD_LABELS:
        with refuses(ValueError, "Labels must be in 0..2.*Received: label "):
            learner.adapt(x, np.array([label]))


def test_whole_numbers_of_any_type_are_labels():
    learner, x = _classifier(), np.ones([1, 2], "float32")
    expected = learner.adapt(x, np.array([1], "int32"))(x)
    for label in (np.float32(1), np.uint8(1), np.int64(1), np.uint64(1), True):
        actual = learner.adapt(x, np.array([label]))(x)
        np.testing.assert_array_equal(actual, expected)


def test_an_ignored_class_is_a_label():
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=-1
    )
    learner = compiled(keras_meta.MAML(mlp(3), 0.1), loss=loss)
    x = np.ones([2, 2], "float32")
    np.testing.assert_allclose(
        learner.adapt(x, np.array([1, -1]))(x),
        learner.adapt(x[:1], np.array([1]))(x),
        rtol=1e-6,
    )
    with refuses(ValueError, "Labels must be in 0..2.*label -2"):
        learner.adapt(x, np.array([1, -2]))


@pytest.mark.slow_variants("True")
@pytest.mark.parametrize("jit_compile", [False, True])
def test_labels_of_queries_outside_of_the_ways_stop(jit_compile):
    learner = _classifier(jit_compile)
    x, y = classification()
    y = y.astype("int64")
    y[1, 2] = 2**32
    before = weights(learner)
    message = "Labels must be in 0..2.*Task 1 .*`query_y`.*label 4294967296"
    with refuses(ValueError, message):
        learner.fit(x, y, batch_size=2, shuffle=False, verbose=0)
    assert_same_weights(learner, before)
    with refuses(ValueError, message):
        learner.evaluate(x, y, batch_size=2, verbose=0)
    with refuses(ValueError, message):
        keras_meta.evaluate_tasks(learner, dataset((x, y)).batch(2), tasks=2)


def _state(learner):
    variables = [*learner.weights, *learner.optimizer.variables]
    return [v.numpy().copy() for v in variables]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "options", "key", "jit_compile"),
    [
        (keras_meta.MAML, {}, "support_x", False),
        (keras_meta.MAML, {}, "query_y", True),
        (keras_meta.Reptile, {"steps": 2, "batch_size": 2}, "query_y", False),
    ],
)
def test_a_failed_step_changes_nothing(algorithm, options, key, jit_compile):
    """Neither momentum nor averages, seeds, counters and metrics move."""
    model = keras.Sequential(
        [
            keras.Input([2]),
            *normalized_mlp().layers,
            keras.layers.Dropout(0.5, seed=1),
        ]
    )
    learner = compiled(
        algorithm(model, 0.1, batch_statistics="running", **options),
        keras.optimizers.Adam(0.1, gradient_accumulation_steps=2),
        jit_compile=jit_compile,
    )
    x, y = regression()
    learner.train_on_batch(x, y)
    before = _state(learner)
    bad = {**x, "query_y": y}
    bad[key] = bad[key].copy()
    bad[key][2, 1, 0] = np.nan
    with refuses(FloatingPointError, "The step was undone"):
        learner.train_on_batch(bad, bad.pop("query_y"))
    assert_same_weights(_state(learner), before)
    # Keras resets the metrics before each batch.
    assert not any(v.numpy() for v in learner.metrics_variables)
    learner.train_on_batch(x, y)
    assert have_moved(before, _state(learner))


@pytest.mark.slow
def test_a_failed_step_leaves_the_losses_of_several_outputs():
    inputs = keras.Input([2])
    outputs = [keras.layers.Dense(1)(inputs) for _ in range(2)]
    learner = compiled(
        keras_meta.MAML(
            keras.Model(inputs, outputs),
            inner_loss=lambda y, y_pred: tf.square(y - y_pred[0]),
        ),
        loss=["mse", "mse"],
        metrics=[["mae"], ["mae"]],
    )
    x, y = regression()
    learner.train_on_batch(x, [y, y])
    assert all(v.numpy() for v in learner.metrics_variables)
    x["support_x"][0, 0, 0] = np.nan
    with refuses(FloatingPointError, "The step was undone"):
        learner.train_on_batch(x, [y, y])
    assert not any(v.numpy() for v in learner.metrics_variables)


@pytest.mark.slow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_steps_of_an_execution_after_a_failed_one_do_nothing(jit_compile):
    x, y = regression(tasks=12)
    x["support_x"][4, 0, 0] = np.nan
    first = [a[:3] for a in keras.tree.flatten((x, y))]
    learners = [
        compiled(
            keras_meta.MAML(mlp(), 0.1),
            keras.optimizers.Adam(0.1),
            jit_compile=jit_compile,
            steps_per_execution=steps,
        )
        for steps in (4, 1)
    ]
    learners[1].set_weights(learners[0].get_weights())
    with refuses(FloatingPointError, "inner step 0 of task 1 "):
        learners[0].fit(
            dataset((x, y)).batch(3, drop_remainder=True), verbose=0
        )
    learners[1].train_on_batch(*keras.tree.pack_sequence_as((x, y), first))
    assert_same_weights(*learners, atol=1e-6)
    assert learners[0].optimizer.iterations == 1


@pytest.mark.slow
def test_what_is_not_finite_after_the_last_step_is_found():
    learner = compiled(keras_meta.MAML(mlp(activation=None), 1e30, 1))
    x, y = regression()
    far = {**x, "support_x": 1e15 * x["support_x"]}
    message = "adapted weights of task 0.*after inner step 1.*learning rate"
    for run in (
        lambda: learner(far),
        lambda: learner.adapt(far["support_x"][0], far["support_y"][0]),
        lambda: learner.predict(far, verbose=0),
        lambda: learner.evaluate(far, y, verbose=0),
        lambda: keras_meta.evaluate_tasks(
            learner, dataset((far, y)).batch(3), tasks=3
        ),
        lambda: learner.fit(far, y, shuffle=False, verbose=0),
    ):
        with refuses(FloatingPointError, message):
            run()
    assert not np.all(np.isfinite(learner.trajectory(far)[-1]))


@pytest.mark.parametrize("steps", [0, 1])
def test_predictions_that_are_not_finite_are_found(steps):
    x, _ = regression()
    x["query_x"][1, 0] = np.nan
    learner = maml(evaluation_steps=steps)
    with refuses(FloatingPointError, "predictions .* task 1 .*`query_x`"):
        learner.predict(x, verbose=0)


@pytest.mark.slow_variants("support_y", "query_x")
@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("support_x", np.inf, "inner step 0 of task {} .*`support_x` of this"),
        ("support_y", np.nan, "inner step 0 of task {} .*`support_y` of this"),
        ("query_x", np.inf, "predictions for .*task {} .*`query_x` of this"),
        ("query_y", np.nan, "loss of task {} .*`query_y` of this"),
    ],
    ids=["support_x", "support_y", "query_x", "query_y"],
)
def test_what_is_not_finite_is_named(key, value, expected):
    learner = compiled(keras_meta.MAML(mlp(activation=None), 0.1))
    x, y = regression()
    data = {**x, "query_y": y}
    data[key][1, 2] = value
    episodes = dataset((x, y)).batch(3)
    if key != "query_y":
        with refuses(FloatingPointError, expected.format(1)):
            learner(x)
    if key.startswith("support"):
        with refuses(FloatingPointError, expected.format(0)):
            learner.adapt(x["support_x"][1], x["support_y"][1])
    with refuses(FloatingPointError, expected.format(1)):
        keras_meta.evaluate_tasks(learner, episodes, tasks=3)


def test_weights_that_are_not_finite_are_told_from_data():
    learner = compiled(keras_meta.MAML(mlp(activation=None), 0.1))
    learner.set_weights([np.full_like(w, np.nan) for w in weights(learner)])
    with refuses(FloatingPointError, "are finite, so the model's weights"):
        learner(regression()[0])


@pytest.mark.slow
def test_an_outer_loss_that_is_not_finite_stops_evaluation():
    x, y = regression()
    y[0, 0] = np.nan
    with refuses(FloatingPointError, "loss of the query sets is not finite"):
        maml().evaluate(x, y, verbose=0)
